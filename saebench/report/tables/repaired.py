"""A repair for people: before and after, as the seed's table A1 has it, and why."""

from collections.abc import Iterator

from rich import box
from rich.table import Table
from rich.text import Text

from saebench.records.repair import FeatureAnalysis, Ranged, RepairRecord, RepairRow
from saebench.report.style import plain_text
from saebench.report.terminal import ARROWS

NARROW = 90


def repair_table(record: RepairRecord, *, width: int) -> Table:
    """Return a row for each metric: before, after, and the paired change with its interval.

    Args:
        record: of the repair.
        width: of the terminal; where it is narrow the change's share is left out.
    """
    title = Text(plain_text(record.before.id), style="bold not italic")
    title.append(plain_text(f"  repaired by {record.recipe.method}"), style="not bold dim")
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0),
        pad_edge=False, caption=_caption(record), caption_justify="left",
    )  # fmt: skip
    table.add_column("metric", overflow="fold", min_width=14)
    for name in ("before", "after", "change"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("95% CI", no_wrap=True)
    if width >= NARROW:
        table.add_column("share", justify="right", no_wrap=True)
    for row in record.rows:
        table.add_row(*_cells(row, shares=width >= NARROW))
    return table


def repair_lines(record: RepairRecord) -> Iterator[str]:
    """Say how the fit went, what the features show, and which verdicts changed."""
    course = record.course
    gap = recovered(record)
    if gap.value is not None:
        yield f"perplexity gap recovered: {_percent(gap)}"
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


def _cells(row: RepairRow, *, shares: bool) -> tuple[str | Text, ...]:
    change = row.change
    interval = Text(change.interval("+.3g") or "")
    numbers = [_number(each.value) for each in (row.before, row.after)]
    signed = "undefined" if change.value is None else f"{change.value:+.3g}"
    name = Text(plain_text(f"{row.metric} {ARROWS[row.direction]}"))
    cells = (name, *numbers, signed, interval)
    return (*cells, _percent(row.share, ends=False)) if shares else cells


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4g}"


def _percent(share: Ranged, *, ends: bool = True) -> str:
    if share.value is None:
        return ""
    text = f"{share.value:+.1%}"
    interval = share.interval("+.1%") if ends else None
    return text if interval is None else f"{text} {interval}"


def recovered(record: RepairRecord) -> Ranged:
    """Return the share of the perplexity gap that was recovered: by how much the gap fell."""
    return record.row("perplexity_gap").share.negated()


def _analysis_lines(found: FeatureAnalysis) -> Iterator[str]:
    for each in found.correlations:
        given = "" if each.given is None else f" given {each.given}"
        if each.r.value is not None:
            ends = each.r.interval("+.2f")
            told = "" if ends is None else f" {ends}"
            yield f"r({each.y}, {each.x}{given}) = {each.r.value:+.3f}{told}"
    theory = (
        "" if found.additive_theory is None else f"; theory c·d/2 = {found.additive_theory:.3g}"
    )
    yield (
        f"additive change over {found.features} features: mean {found.additive_mean:.3g}, median "
        f"{found.additive_median:.3g}{theory}"
    )
    yield (
        f"decoder cosine before/after: mean {found.cosine_mean:.4f}, lowest "
        f"{found.cosine_lowest:.4f}"
    )


def _caption(record: RepairRecord) -> Text:
    data = record.judged_on
    lines = [
        f"pair by pair over {data.sequences} sequences of {data.context} tokens of {data.name}",
        *record.notes,
    ]
    return Text("\n".join(map(plain_text, lines)))
