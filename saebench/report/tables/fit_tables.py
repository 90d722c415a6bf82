"""Tables of repairs and of sweeps of trainings, and what is said about them in words."""

from collections.abc import Iterator, Sequence

from saebench.records.repair import FeatureAnalysis, Ranged, RepairRecord
from saebench.records.sweep import KL, L0, SweepPoint, SweepRecord
from saebench.report.style import plain_text
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
    with_arrow,
)
from saebench.report.tables.text_tables import markdown_table

UNDEFINED = "undefined"
NONE = Ranged(None)


def repair_table(record: RepairRecord, *, id: str = "repair") -> Table:
    """Return a row for each metric: before, after, and the paired change with its interval."""
    data = record.judged_on
    columns = (
        *(*names("metric"), *numbers("before", "after", "change")),
        Column("95% CI", Kind.INTERVAL),
        Column("share", Kind.NUMBER, rank=1),
        Column("its CI", Kind.INTERVAL, rank=2),
    )
    rows = tuple(
        row(
            with_arrow(each.metric, each.direction),
            *(number(ranged.value, absent=UNDEFINED) for ranged in (each.before, each.after)),
            number(each.change.value, "+.3g", absent=UNDEFINED),
            _ends(each.change, "+.3g"),
            number(each.share.value, "+.1%", absent=""),
            _ends(each.share, "+.1%"),
            sae=record.before.id,
        )
        for each in record.rows
    )
    note = (
        f"pair by pair over {data.sequences:,} sequences of {data.context} tokens of {data.name}; "
        f"fitted on {record.course.tokens:,} tokens of {record.course.texts}"
    )
    about = f"repaired by {record.recipe.method}"
    return Table(id, record.before.id, columns, rows, about=about, note=note, remarks=record.notes)


def repairs_table(records: Sequence[RepairRecord]) -> Table:
    """Return a row for each repair, for methods side by side.

    Source:
        Wright & Sharkey 2024, "Addressing feature suppression in SAEs", figures A1 to A3.
    """
    columns = (
        *(*names("SAE"), *texts("method"), *numbers("mse")),
        Column("CI of mse", Kind.INTERVAL),
        *numbers("perplexity gap recovered"),
        Column("CI of the gap", Kind.INTERVAL),
        *numbers("l0 before", "l0 after", "l2_ratio before", "l2_ratio after"),
    )
    return Table(
        "repair-methods", "Repairs side by side", columns, tuple(map(_method_row, records)),
        note="mse as a share of the SAE's own; paired over sequences", filters=("method",),
    )  # fmt: skip


def features_table(record: RepairRecord, analysis: FeatureAnalysis, *, id: str) -> Table:
    """Return how the change of features correlates with their strength and frequency."""
    columns = (
        *(*texts("correlation of", "with", "given"), *numbers("r")),
        Column("95% CI", Kind.INTERVAL),
    )
    rows = tuple(
        row(each.y, each.x, each.given or ABSENT,
            number(each.r.value, "+.4g", absent=UNDEFINED), _ends(each.r, "+.2f"))
        for each in analysis.correlations
    )  # fmt: skip
    theory = analysis.additive_theory
    expected = "" if theory is None else f" (theory c·d/2 = {theory:.3g})"
    note = (
        f"n = {analysis.features:,} features that are on at {analysis.least_tokens:,} of "
        f"{analysis.tokens:,} tokens or more; additive change: mean {analysis.additive_mean:.3g}, "
        f"median {analysis.additive_median:.3g}{expected}; cosine of decoder rows before and "
        f"after: mean {analysis.cosine_mean:.3f}, lowest {analysis.cosine_lowest:.3f}"
    )
    return Table(id, f"Features of {repair_label(record)}", columns, rows, note=note)


def repair_lines(record: RepairRecord) -> Iterator[str]:
    """Yield how the fit went, how features changed, and which verdicts changed."""
    course = record.course
    gap = recovered(record)
    if gap.value is not None:
        yield f"perplexity gap recovered: {gap.value:+.1%}{_spaced(gap.interval('+.1%'))}"
    why = "converged" if course.converged else "all tokens used"
    yield (
        f"fitted on {course.tokens:,} tokens of {plain_text(course.texts)} ({course.passes:.1f} "
        f"passes; {why}) in {course.duration_s:.0f} s"
    )
    if record.analysis is not None:
        yield from _analysis_lines(record.analysis)
        yield f"features switched on or off: {course.flips:,} of {course.flips_of:,}"
    for gate in record.gates:
        if gate.before != gate.after:
            yield f"{gate.rule}: {gate.before} before, {gate.after} after"


def recovered(record: RepairRecord) -> Ranged:
    """Return the share of the perplexity gap that was recovered: by how much the gap fell."""
    share = record.row("perplexity_gap").share
    return share.negated()


def repair_label(record: RepairRecord) -> str:
    """Return the SAE and the method, which tell repairs apart."""
    return f"{record.before.id}, {record.recipe.method}"


def frontier_tables(sweep: SweepRecord, *, number_of: int = 0) -> Iterator[Table]:
    """Yield the trained SAEs of each place in the model, for equal tokens or equal time.

    Args:
        sweep: the record.
        number_of: of the sweep among several on a page.
    """
    data = sweep.judged_on
    for i, ((equal, hook), points) in enumerate(places(sweep).items()):
        yield Table(
            f"training-{number_of}-{i}", f"{hook}, equal {equal}", FRONTIER,
            tuple(map(_point_row, points)),
            note=(
                f"{data.sequences:,} sequences of {data.context} tokens of {data.name}; begun from "
                f"standard SAEs of {sweep.init_tokens:,} tokens of {sweep.texts}; 'less standard' "
                "is paired over sequences"
            ),
        )  # fmt: skip


def frontier_markdown(sweep: SweepRecord) -> str:
    """Return one Markdown table for each place, under a line that names it."""
    tables = frontier_tables(sweep)
    return "\n".join(
        f"`{hook}`, equal {equal}:\n\n{markdown_table(table)}\n"
        for (equal, hook), table in zip(places(sweep), tables, strict=True)
    )


def places(sweep: SweepRecord) -> dict[tuple[str, str], list[SweepPoint]]:
    """Return the points of each place, equal tokens and equal time apart."""
    grouped: dict[tuple[str, str], list[SweepPoint]] = {}
    for point in sweep.points:
        grouped.setdefault((point.equal, point.hook), []).append(point)
    return grouped


FRONTIER = (
    Column("sparsity", is_wrapped=False),
    Column("objective", is_wrapped=False),
    Column("tokens", Kind.NUMBER, rank=6),
    Column("L0", Kind.NUMBER),
    Column("KL, nats", Kind.NUMBER),
    Column("95% CI", Kind.INTERVAL, rank=1),
    Column("less standard", Kind.NUMBER),
    Column("its CI", Kind.INTERVAL, rank=2),
    Column("mse", Kind.NUMBER, rank=3),
    Column("l2_ratio", Kind.NUMBER, rank=4),
    Column("KL gap", Kind.NUMBER, rank=5),
    Column("tax", Kind.NUMBER),
)


def _point_row(point: SweepPoint) -> Row:
    kl, less = point.metrics.get(KL, NONE), point.against_standard or NONE
    return row(
        point.sparsity,
        point.objective,
        number(point.tokens, ",d"),
        _metric(point, L0),
        _metric(point, KL),
        _ends(kl, ".3g"),
        number(less.value, "+.3g"),
        _ends(less, "+.3g"),
        *(_metric(point, name) for name in ("mse", "l2_ratio", "kl_gap_ratio", "tax_kl")),
    )


def _metric(point: SweepPoint, name: str) -> Cell:
    return number(point.metrics.get(name, NONE).value, ".3g")


def _method_row(record: RepairRecord) -> Row:
    mse, gap = record.row("fidelity.mse").share, recovered(record)
    l0, ratio = (record.row(name) for name in ("sparsity.l0", "shrinkage.l2_ratio"))
    ends = (l0.before, l0.after, ratio.before, ratio.after)
    return row(
        record.before.id,
        record.recipe.method,
        number(mse.value, "+.1%", absent=UNDEFINED),
        _ends(mse, "+.1%"),
        number(gap.value, "+.1%", absent=UNDEFINED),
        _ends(gap, "+.1%"),
        *(number(each.value, absent=UNDEFINED) for each in ends),
    )


def _ends(ranged: Ranged, form: str) -> Cell:
    return interval(ranged.ci, form)


def _analysis_lines(analysis: FeatureAnalysis) -> Iterator[str]:
    for each in analysis.correlations:
        given = "" if each.given is None else f" given {each.given}"
        if each.r.value is not None:
            ends = _spaced(each.r.interval("+.2f"))
            yield f"r({each.y}, {each.x}{given}) = {each.r.value:+.3f}{ends}"
    theory = analysis.additive_theory
    expected = "" if theory is None else f"; theory c·d/2 = {theory:.3g}"
    yield (
        f"additive change over {analysis.features} features: mean {analysis.additive_mean:.3g}, "
        f"median {analysis.additive_median:.3g}{expected}"
    )
    yield (
        f"decoder cosine before/after: mean {analysis.cosine_mean:.4f}, lowest "
        f"{analysis.cosine_lowest:.4f}"
    )


def _spaced(text: str | None) -> str:
    return "" if text is None else f" {text}"
