"""The terminal's tables: one for each SAE, the worst first."""

from collections.abc import Iterator
from io import StringIO

from rich import box
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from saebench.records.run import (
    SEVERITY,
    CaseResult,
    Direction,
    GateResult,
    Metric,
    Run,
    Verdict,
    overall,
)
from saebench.report.queries import interval_heading
from saebench.report.style import COLOURS, Plain, plain_text, reading_series
from saebench.report.tables.details import pair_table, token_tables

ARROWS = {Direction.LOWER: "↓", Direction.HIGHER: "↑", Direction.TARGET: "→"}
SHOWN_UNITS = ("nats", "×")  # a share or a count needs none in a narrow table
HEADLINES = (
    "fidelity.kl",
    "fidelity.ce_increase",
    "fidelity.explained_variance",
    "fidelity.top1_agreement",
    "kl_gap.ratio[cov_random]",
    "kl_gap.ratio[real_difference]",
    "kl_gap.ratio[error_shuffled]",
    "kl_gap.explained_by_norm",
    "single_token.ratio[eps_random@0]",
    "single_token.z_median",
    "single_token.z_above_2",
    "shrinkage.reconstruction_bias",
    "sparsity.dead",
    "helpfulness.share_harmful",
    "hard_tokens.correlation[cosine]",
    "controls.separated[kl_gap]",
    "tax.kl",
    "tax.kl_with_sae",
)


class _Memory(StringIO):
    """A file in memory, of which rich is told the encoding of the terminal."""

    encoding = "utf-8"


def render(run: Run, *, width: int = 100, colour: bool = False, encoding: str = "utf-8") -> str:
    """Return the run's tables as text.

    Args:
        run: what was found.
        width: of the terminal.
        colour: with escape sequences for colours.
        encoding: of the terminal; lines are drawn in ASCII where it is none of Unicode's.
    """
    memory = _Memory()
    memory.encoding = encoding
    console = Console(
        file=memory,
        width=width,
        force_terminal=colour,
        no_color=not colour,
        legacy_windows=False,
    )
    with console.capture() as captured:
        console.print(Plain(tables(run)))
    return captured.get()


def tables(run: Run) -> Group:
    """Return one table for each SAE that has cases, the worst SAE first, then that of the pairs.

    What is odd about an SAE stands under its table.
    """
    judged = {case.sae for case in run.cases}
    saes = [sae.id for sae in run.saes if sae.id in judged]
    saes.sort(key=lambda sae: -SEVERITY[_verdict_of(run, sae)])
    with reading_series("the tables"):
        pairs, tokens = pair_table(run), list(token_tables(run))
    return Group(
        *(shown for sae in saes for shown in (_of_sae(run, sae), *_notes_on(run, sae))),
        *([pairs] if pairs is not None else []),
        *tokens,
    )


def _notes_on(run: Run, sae: str) -> Iterator[Text]:
    """Give what is odd about an SAE or its texts, for the lines under its table."""
    for record in (record for record in run.saes if record.id == sae):
        yield from (Text(plain_text(f"note: {note}"), style="dim") for note in record.notes)


def _verdict_of(run: Run, sae: str) -> Verdict:
    return overall(case.verdict for case in run.cases if case.sae == sae)


def _of_sae(run: Run, sae: str) -> Table:
    cases = [c for c in run.cases if c.sae == sae]
    table = Table(
        title=_title(run, sae),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        caption_justify="left",
    )
    held = any(gate.baseline is not None for case in cases for gate in case.gates)
    beside = ("baseline", "Δ") if held else ()
    for name in ("metric", "value", interval_heading(cases), *beside, "limit", "verdict"):
        justify = "right" if name in ("value", *beside) else "left"
        table.add_column(name, justify=justify, no_wrap=name != "metric", overflow="fold")
    for row in _gate_rows(cases, held=held):
        table.add_row(*row)
    table.add_section()
    for label, value, interval in _headline_rows(cases):
        table.add_row(label, value, interval, style="dim")
    return table


def broken_name(metric: str) -> str:
    r"""Return a metric's name on a line for each of its parts, for narrow columns.

    Example:
        >>> broken_name("kl_gap.ratio[eps_random]")
        'kl_gap.\nratio\n[eps_random]'
    """
    return metric.replace(".", ".\n").replace("[", "\n[")


def _title(run: Run, sae: str) -> Text:
    record = next(s for s in run.saes if s.id == sae)
    verdict = _verdict_of(run, sae)
    title = Text(plain_text(f"{sae}  "), style="bold not italic")
    title.append(verdict.value, style=COLOURS[verdict])
    about = f"  {record.architecture}, {record.d_sae} features, {record.hook}"
    return title.append(plain_text(about), style="not bold not italic dim")


def _gate_rows(cases: list[CaseResult], *, held: bool) -> Iterator[tuple[str | Text, ...]]:
    """Give a row for each gate, the most severe first; errors and ungated cases get one too."""
    rows: list[tuple[Verdict, CaseResult, GateResult | None]] = []
    for case in cases:
        rows += [(gate.verdict, case, gate) for gate in case.gates] or [(case.verdict, case, None)]
    rows.sort(key=lambda row: (row[2] is not None and row[2].secondary, -SEVERITY[row[0]]))
    for verdict, case, gate in rows:
        secondary = gate is not None and gate.secondary
        style = "dim" if secondary else COLOURS[verdict]
        shown = Text(verdict.value + (" (2nd)" if secondary else ""), style=style)
        if gate is None:
            yield escape(_name_of(case)), "", "", *(("", "") if held else ()), "", shown
            continue
        metric = next((m for m in case.metrics if m.name == gate.metric), None)
        label, value, interval = _value_cells(metric, gate.metric)
        of_several = sum(any(g.metric == gate.metric for g in c.gates) for c in cases) > 1
        which = f" of {escape(_name_of(case))}" if of_several else ""
        beside = _baseline_cells(gate) if held else ()
        yield label + which, value, interval, *beside, escape(plain_text(gate.limit)), shown


def _baseline_cells(gate: GateResult) -> tuple[str, str]:
    if gate.baseline is None or gate.observed is None:
        return "–", "–"
    return f"{gate.baseline:.4g}", f"{gate.observed - gate.baseline:+.3g}"


def _name_of(case: CaseResult) -> str:
    return plain_text(case.id.removesuffix(f"@{case.sae}"))


def _headline_rows(cases: list[CaseResult]) -> Iterator[tuple[str, str, str]]:
    gated = {gate.metric for case in cases for gate in case.gates}
    # Two cases may report one metric: the gated one is shown, else the first.
    by_weight = sorted(reversed(cases), key=lambda case: bool(case.gates))
    found = {metric.name: metric for case in by_weight for metric in case.metrics}
    for name in HEADLINES:
        if name in found and name not in gated:
            yield _value_cells(found[name], name)


def _value_cells(metric: Metric | None, name: str) -> tuple[str, str, str]:
    if metric is None or metric.value is None:
        return (
            escape(plain_text(name)),
            "–",
            "undefined" if metric and metric.note else "not measured",
        )
    label = escape(plain_text(f"{name} {ARROWS[metric.direction]}"))
    interval = escape(f"[{metric.ci.low:.3g}, {metric.ci.high:.3g}]") if metric.ci else ""
    unit = metric.unit if metric.unit in SHOWN_UNITS else ""
    return label, f"{metric.value:.4g} {unit}".strip(), interval


def sentences(run: Run, *verdicts: Verdict) -> Iterator[str]:
    """Give a sentence for each case that came to one of the verdicts, worst first."""
    for case in sorted(run.cases, key=lambda c: -SEVERITY[c.verdict]):
        if case.verdict in verdicts:
            yield plain_text(f"{case.verdict} {case.id}: {case.reason}")


def told(run: Run) -> Iterator[str]:
    """Give what properties say in words, each sentence once, with the SAEs that it is about."""
    about: dict[tuple[str, str], list[str]] = {}
    for case in run.cases:
        with reading_series(case.id):
            for sentence in case.series.get("sentences", ()):
                about.setdefault((case.property, sentence), []).append(case.sae)
    for (name, sentence), saes in about.items():
        yield plain_text(f"{name}: {sentence} ({', '.join(saes)})")


def data_lines(run: Run, *, asked: int = 0) -> Iterator[str]:
    """Give a line for each data set.

    Args:
        run: what was found.
        asked: how many sequences were asked for; fewer are mentioned.
    """
    for data in run.datasets:
        short = data.packing != "prompts" and data.sequences < asked
        fewer = f" (asked for {asked}; the texts hold no more)" if short else ""
        yield plain_text(
            f"{data.name}: {data.sequences} sequences of {data.context} tokens{fewer}, "
            f"seed {run.run.seed}"
        )
