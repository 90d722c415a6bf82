"""Runs side by side: what got worse, the worst first."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from saebench.report.charts import Cell, Table
from saebench.report.page.markup import Markup, tag
from saebench.report.page.page_tables import table_html
from saebench.report.terminal import ARROWS

if TYPE_CHECKING:
    from saebench.compare.comparison import Comparison
    from saebench.compare.differences import Difference

COLUMNS = (
    "held against",
    "SAE",
    "metric",
    "before",
    "after",
    "worse by",
    "CI",
    "paired",
    "outcome",
)
PAIRED = "Intervals are over the differences of the same documents."
UNPAIRED = (
    "Unpaired rows are wider than they need be: the sums of single documents were not beside both "
    "result files (--sae-json writes them, as RUN.sums.npz), nor in stored baselines."
)


def comparison_table(comparisons: Sequence["Comparison"]) -> Table:
    """Return every difference, in the order of how much worse it is."""
    rows = [(each, found) for each in comparisons for found in each.differences]
    rows.sort(key=lambda row: _order(row[1]))
    paired = all(found.paired for _, found in rows)
    level = f"{comparisons[0].level:.0%} intervals for all rows of a pair together. "
    note = level + (PAIRED if paired else UNPAIRED)
    return Table(
        "differences", "Differences, the worst first", COLUMNS,
        tuple(_row(*row) for row in rows), note=note, filters=("outcome",),
    )  # fmt: skip


def comparison_html(comparisons: Sequence["Comparison"]) -> Markup:
    """Return the section; nothing where nothing was compared."""
    if not comparisons:
        return Markup("")
    items = [tag("li", line) for line in _incomparable(comparisons)]
    left_out = tag("details", tag("summary", f"{len(items)} not comparable"), tag("ul", *items))
    return tag(
        "section",
        tag("h2", "Comparison", id="comparison-title"),
        table_html(comparison_table(comparisons)),
        left_out if items else "",
        id="comparison", aria_labelledby="comparison-title",
    )  # fmt: skip


def _order(found: "Difference") -> tuple[int, float]:
    """Sort what is shown to be worse first, each by its share of the value before."""
    shown = ("worse", "unclear", "no interval", "better")
    return shown.index(found.outcome.value), -found.worse_by / (abs(found.first) or 1.0)


def _row(comparison: "Comparison", found: "Difference") -> tuple[str | Cell, ...]:
    ends = found.ci.text("+.3g") if found.ci else "–"
    return (
        comparison.first,
        comparison.second,
        f"{found.metric} {ARROWS[found.direction]}",
        Cell(f"{found.first:.4g}", found.first),
        Cell(f"{found.second:.4g}", found.second),
        Cell(f"{found.worse_by:+.3g}", found.worse_by),
        Cell(ends, found.ci.low if found.ci else None),
        "paired" if found.paired else "unpaired",
        found.outcome.value,
    )


def _incomparable(comparisons: Sequence["Comparison"]) -> Iterator[str]:
    for each in comparisons:
        yield from (f"{each.second}: {name}: {why}" for name, why in each.incomparable)
