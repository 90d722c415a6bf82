"""A run's tables: gates, metrics, verdicts by SAE and property, pairs, tokens."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from saebench.records.case_result import CaseResult, GateResult
from saebench.records.inputs import SubjectRecord
from saebench.records.metric import LEVEL, Interval, Metric
from saebench.records.run import Run, Unjudged
from saebench.records.verdict import SEVERITY, Verdict, overall
from saebench.report.style import LOOKS
from saebench.report.tables import (
    ABSENT,
    Cell,
    Column,
    Kind,
    Row,
    Table,
    interval,
    names,
    number,
    numbers,
    row,
    texts,
    verdict_cell,
    why_of,
    with_arrow,
)
from saebench.text import percent

HEADLINES = (
    "fidelity.kl",
    "fidelity.ce_increase",
    "fidelity.explained_variance",
    "fidelity.top1_agreement",
    "advantage.equivalent_components",
    "advantage.equivalent_ratio",
    "advantage.skip_kl_ratio",
    "kl_gap.share_of_context",
    "kl_gap.constant_share",
    "kl_gap.explained_by_norm",
    "single_token.ratio[eps_random@0]",
    "single_token.z_median",
    "single_token.z_above_2",
    "shrinkage.reconstruction_bias",
    "sparsity.dead",
    "helpfulness.share_harmful",
    "hard_tokens.correlation[cosine]",
    "special_tokens.kl_ratio",
    "special_tokens.sinks",
    "controls.separated[kl_gap]",
    "tax.kl",
    "tax.kl_with_sae",
)
"""Metrics that the terminal shows without a gate too."""
LAST = (Verdict.NEW, Verdict.SKIPPED)  # no limit or baseline decides them
GATES_NOTE = (
    "↓ lower is better, ↑ higher, → a target; Δ is against the baseline; secondary gates are "
    "corrected for how many there are, and decide nothing"
)


def gates_table(run: Run) -> Table:
    """Return every gate of the run, and every case that has none, the worst first.

    The reason is why a limit exists that was not met, or an error's text.
    """
    columns = (
        *names("SAE", "case", "metric"),
        *_value_columns(run.cases),
        Column("limit", rank=2, is_wrapped=False),
        Column("verdict", Kind.VERDICT),
        Column("baseline", Kind.NUMBER, optional=True, rank=3),
        Column("Δ", Kind.NUMBER, optional=True, rank=4),
        Column("worse by", Kind.NUMBER, optional=True),
        Column("its CI", Kind.INTERVAL, optional=True),
        Column("role", optional=True),
        Column("reason", optional=True),
    )
    rows = [each for case in run.cases for each in _gate_rows(case)]
    table = Table("gates", "Every decision", columns, tuple(rows), note=GATES_NOTE,
                  filters=("verdict",))  # fmt: skip
    return replace(table, rows=tuple(sorted(rows, key=lambda each: _severity(table, each))))


def sae_table(run: Run, sae: str) -> Table:
    """Return an SAE's gates, the worst first, and below them headlines that no gate reads.

    The remarks are the SAE's own notes and why limits exist that were not met.
    """
    record = next(s for s in run.saes if s.id == sae)
    cases = run.cases_of(sae)
    of_sae = replace(run, cases=cases, saes=(record,))
    value, ci = (column.name for column in _value_columns(cases))
    gates = _in_short(gates_table(of_sae))
    gates = gates.select("metric", value, ci, "baseline", "Δ", "limit", "verdict")
    return replace(
        gates,
        id=f"gates-{sae}",
        title=sae,
        about=f"{record.architecture}, {record.d_sae} features, {record.hook}",
        verdict=run.verdict_of(sae),
        rows=(
            *gates.rows,
            *_unjudged_rows(run.unjudged_of(sae) or (), len(gates.columns)),
            *_headline_rows(cases, len(gates.columns)),
        ),
        note="",
        remarks=(*(f"note: {note}" for note in record.notes), *_whys(cases)),
        filters=(),
    )


def in_words(counts: Mapping[str, int]) -> str:
    """Return properties with their numbers of cases, for people.

    Example:
        >>> in_words({"fidelity": 1, "kl_gap": 2})
        'fidelity, kl_gap (2 cases)'
    """
    return ", ".join(name if n == 1 else f"{name} ({n} cases)" for name, n in counts.items())


def _unjudged_rows(unjudged: Sequence[Unjudged], width: int) -> Iterator[Row]:
    """Yield a row for each deciding property that was not judged."""
    counts = Counter(each.property for each in unjudged)
    for name, count in counts.items():
        cell = Cell("not judged", tone=LOOKS[Verdict.INCOMPLETE].colour)
        yield row(in_words({name: count}), *("",) * (width - 2), cell)


def metrics_table(cases: list[CaseResult], about: str) -> Table:
    """Return every metric of a property's cases."""
    rows = [_metric_row(case, metric) for case in cases for metric in case.metrics]
    columns = (
        *names("SAE", "case", "metric"),
        *_value_columns(cases),
        *(*texts("unit"), *numbers("n"), *texts("note")),
    )
    return Table(f"metrics-{about.replace('_', '-')}", "Every metric", columns, tuple(rows))


def overview_table(run: Run) -> Table:
    """Return a row for each SAE, the worst first: its verdict and the value of each gated metric.

    The sign of a value's verdict is shown where its gate did not pass.
    """
    gated = list(dict.fromkeys(gate.metric for case in run.cases for gate in case.deciding))
    columns: list[Column] = [Column("SAE", Kind.NAME), Column("verdict", Kind.VERDICT)]
    for name in gated:
        columns.append(Column(_with_its_arrow(run, name), Kind.NUMBER, is_metric=True))
        columns.append(Column(f"CI of {name}", Kind.INTERVAL))
    saes = sorted((s.id for s in run.judged), key=lambda sae: -SEVERITY[run.verdict_of(sae)])
    rows = tuple(_overview_row(run, sae, gated) for sae in saes)
    return Table("overview", "Every SAE", tuple(columns), rows)


def matrix_table(run: Run) -> Table:
    """Return a row for each SAE, the worst first, with the verdict of each property."""
    properties = list(dict.fromkeys(case.property for case in run.cases))
    about = {sae.id: sae for sae in run.saes}
    order = sorted(run.by_depth(), key=lambda sae: -SEVERITY[run.verdict_of(sae)])
    rows = tuple(_matrix_row(run, about[sae], properties) for sae in order)
    columns = (
        *names("SAE"),
        Column("verdict", Kind.VERDICT),
        *(*texts("architecture"), *names("hook"), *numbers(*properties)),
    )
    shapes = ", ".join(f"{look.shape} {verdict.value}" for verdict, look in LOOKS.items())
    filters = ("verdict", "architecture", "hook")
    return Table("saes", "Every SAE", columns, rows, note=shapes, filters=filters)


PAIR_METRICS = (
    ("‖x-x̂‖²", "mse_change[sae]"),
    ("l0", "l0_change[sae]"),
    ("‖x‖", "norm_change[sae]"),
    ("KL: SAEs", "compounding[sae]"),
    ("random", "compounding[eps_random]"),
)


def pairs_table(run: Run) -> Table | None:
    """Return a row for each pair of SAEs that was measured; None where there are none."""
    cases = [case for case in run.cases if len(case.about) == 2 and case.metrics]
    if not cases:
        return None
    columns = (
        Column("first → second"),
        *(Column(heading, Kind.NUMBER, rank=i) for i, (heading, _) in enumerate(PAIR_METRICS)),
        Column("verdict", Kind.VERDICT),
    )
    return Table(
        "pairs", "pairs: what the second SAE sees once the first is in place, and both together",
        columns, tuple(_pair_row(case) for case in cases),
        note="changes against the clean model; KL of both over the sum of each alone",
    )  # fmt: skip


TOKENS = "The tokens with the highest mean gap"


def tokens_table(cases: Iterable[CaseResult], *, title: str = TOKENS) -> Table:
    """Return the tokens with the highest mean gap of each SAE."""
    rows = [_token_row(case.sae, each) for case in cases for each in case.series.get("tokens", ())]
    columns = (
        *(*names("SAE"), *texts("token"), *numbers("seen", "in texts", "mean gap, nats")),
        Column("95% CI", Kind.INTERVAL),
        *numbers("sd"),
    )
    note = "gap: KL of the SAE's output less that of a random error of its size, nats"
    return Table("hard-tokens-table", title, columns,
                 tuple(rows), note=note, by_sae=True)  # fmt: skip


def interval_heading(cases: Iterable[CaseResult]) -> str:
    """Return the heading of a column of the cases' intervals, whose levels may differ."""
    intervals = (metric.ci for case in cases for metric in case.metrics if metric.ci is not None)
    levels = {ci.level for ci in intervals}
    return f"{percent(levels.pop())} CI" if len(levels) == 1 else "CI"


def _value_columns(cases: Iterable[CaseResult]) -> tuple[Column, Column]:
    ci = Column(interval_heading(cases), Kind.INTERVAL, rank=1)
    return Column("value", Kind.NUMBER), ci


def _severity(table: Table, each: Row) -> tuple[bool, bool, int]:
    """Sort by severity; what no limit decides comes last, and secondary gates before it."""
    verdict = table.cell(each, "verdict").verdict or Verdict.SKIPPED
    return verdict in LAST, bool(table.cell(each, "role").text), -SEVERITY[verdict]


def _gate_rows(case: CaseResult) -> Iterator[Row]:
    if not case.gates:
        reason = case.reason if case.error else ""
        verdict = verdict_cell(case.verdict)
        yield row(case.sae, case.kind, *("",) * 4, verdict, *("",) * 5, reason, sae=case.sae)
    for gate in case.gates:
        metric = case.metric(gate.metric)
        yield row(
            case.sae,
            case.kind,
            with_arrow(gate.metric, metric.direction if metric else None),
            *_value_cells(metric),
            gate.limit,
            verdict_cell(gate.verdict),
            number(gate.baseline),
            number(gate.change, "+.3g"),
            *_worse_by(gate),
            "secondary" if gate.secondary else "",
            why_of(gate),
            sae=case.sae,
        )


def _value_cells(metric: Metric | None) -> tuple[Cell, Cell]:
    """Return a metric's value and interval, or in words why there is none."""
    if metric is None or metric.value is None:
        return Cell("undefined" if metric and metric.note else "not measured"), Cell("")
    return number(metric.value, unit=metric.unit), interval(metric.ci)


def _worse_by(gate: GateResult) -> tuple[Cell, Cell]:
    """Return by how much the metric is worse than its baseline, in the margin's terms."""
    if gate.baseline is None or gate.worse_by is None:
        return Cell(ABSENT), Cell("")
    scale, sign = (100, "%") if gate.limit.endswith("%") else (1, "")
    ci = gate.worse_ci
    return (
        Cell(f"{scale * gate.worse_by:.3g}{sign}", gate.worse_by),
        interval(ci.scaled(scale) if ci else None),
    )


def _in_short(gates: Table) -> Table:
    """Return the gates with their case and role inside the metric's and the verdict's cells.

    A case without gates has its name in the metric's place; the case is added to a metric that
    gates of several cases read.
    """
    pairs = {(gates.cell(r, "metric").text, gates.cell(r, "case").text) for r in gates.rows}
    count = Counter(metric for metric, _ in pairs)

    def short(each: Row) -> Row:
        metric, case = (gates.cell(each, name).text for name in ("metric", "case"))
        verdict = gates.cell(each, "verdict")
        if gates.cell(each, "role").text:
            verdict = replace(verdict, text=f"{verdict.text} (2nd)", tone="dim")
        name = f"{metric} of {case}" if metric and count[metric] > 1 else metric or case
        return gates.changed(each, metric=Cell(name), verdict=verdict)

    return replace(gates, rows=tuple(map(short, gates.rows)))


def _headline_rows(cases: Iterable[CaseResult], width: int) -> Iterator[Row]:
    gated = {gate.metric for case in cases for gate in case.gates}
    # Two cases may report one metric: the gated case's is shown, else the first.
    by_weight = sorted(reversed([*cases]), key=lambda case: bool(case.gates))
    metrics = {metric.name: metric for case in by_weight for metric in case.metrics}
    for name in HEADLINES:
        if name in metrics and name not in gated:
            label = with_arrow(name, metrics[name].direction)
            cells = (label, *_value_cells(metrics[name]))
            yield row(*cells, *("",) * (width - len(cells)), faint=True)


def _whys(cases: Iterable[CaseResult]) -> Iterator[str]:
    """Yield why the limits exist that were not met."""
    for case in cases:
        for gate in case.gates:
            if why := why_of(gate):
                yield f"why {gate.metric} {gate.limit}: {why}"


def _metric_row(case: CaseResult, metric: Metric) -> Row:
    return row(
        case.sae,
        case.kind,
        with_arrow(metric.name, metric.direction),
        number(metric.value),
        interval(metric.ci, ".4g", absent=ABSENT),
        metric.unit,
        Cell(f"{metric.n.sequences:,}", metric.n.sequences),
        metric.note or "",
        sae=case.sae,
    )


def _with_its_arrow(run: Run, name: str) -> str:
    metrics = (case.metric(name) for case in run.cases)
    metric = next((metric for metric in metrics if metric is not None), None)
    return with_arrow(name, metric.direction if metric else None)


def _overview_row(run: Run, sae: str, gated: Iterable[str]) -> Row:
    cases = run.cases_of(sae)
    cells = (cell for name in gated for cell in _gated_value(cases, name))
    return row(sae, verdict_cell(run.verdict_of(sae)), *cells, sae=sae)


def _gated_value(cases: Iterable[CaseResult], name: str) -> tuple[Cell, Cell]:
    for case in cases:
        gate = next((gate for gate in case.deciding if gate.metric == name), None)
        if gate is not None:
            metric = case.metric(name)
            value, ends = _value_cells(replace(metric, unit="") if metric else None)
            passed = gate.verdict is Verdict.PASS
            return replace(value, verdict=None if passed else gate.verdict), ends
    return Cell(ABSENT), Cell("")


def _matrix_row(run: Run, sae: SubjectRecord, properties: Iterable[str]) -> Row:
    cases = run.cases_of(sae.id)
    cells = (_verdict_of_property(cases, name) for name in properties)
    verdict = verdict_cell(run.verdict_of(sae.id))
    return row(sae.id, verdict, sae.architecture, sae.hook, *cells, sae=sae.id)


def _verdict_of_property(cases: Iterable[CaseResult], name: str) -> Cell:
    verdicts = [case.verdict for case in cases if case.property == name]
    if not verdicts:
        return Cell("")
    verdict = overall(verdicts)
    return Cell(f"{LOOKS[verdict].shape} {verdict.value.lower()}", -SEVERITY[verdict])


def _pair_row(case: CaseResult) -> Row:
    values = {metric.name.partition(".")[2]: metric.value for metric in case.metrics}
    cells = (
        number(values.get(name), ".2f", unit="×")
        if name.startswith("compounding")
        else number(values.get(name), "+.1%")
        for _, name in PAIR_METRICS
    )
    return row(" → ".join(case.about), *cells, verdict_cell(case.verdict), sae=case.sae)


def _token_row(sae: str, token: dict[str, Any]) -> Row:
    ci = Interval(token["ci"][0], token["ci"][1], LEVEL, "") if token["ci"] else None
    return row(
        sae,
        repr(token["token"]),
        number(token["count"], "d"),
        number(token["sequences"], "d"),
        number(token["mean_gap"]),
        interval(ci, absent="in too few texts"),
        number(token["sd"], ".3g"),
        sae=sae,
    )
