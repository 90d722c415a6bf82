"""A comparison for people: what got worse first."""

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from saebench.report.style import plain_text
from saebench.report.terminal import ARROWS, SHOWN_UNITS, broken_name

if TYPE_CHECKING:
    from saebench.compare.comparison import Comparison
    from saebench.compare.differences import Difference

NARROW, ROOM, NAME = 90, 76, 14
COLOURS = {"worse": "bold red", "better": "green"}
UNPAIRED = (
    "unpaired, and wider than they need be: where the sums lie beside both result files "
    "(--sae-json writes RUN.sums.npz), or in baselines, they are compared pair by pair"
)


def comparison_table(comparison: "Comparison", *, width: int) -> Table:
    """Return a row for each metric: both values, and by how much the second is worse.

    Args:
        comparison: what was found.
        width: of the terminal; where it is narrow names are broken at their parts, and where
            it is narrower still the two values are left out.
    """
    title = Text(plain_text(comparison.second), style="bold not italic")
    title.append(plain_text(f"  held against {comparison.first}"), style="not bold dim")
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0),
        pad_edge=False, caption=_caption(comparison), caption_justify="left",
    )  # fmt: skip
    table.add_column("metric", overflow="fold", min_width=NAME)
    values = (_short(comparison.first), _short(comparison.second)) if width >= ROOM else ()
    for name in (*values, "worse by"):
        table.add_column(name, justify="right", overflow="fold", min_width=len("worse by"))
    table.add_column("interval", no_wrap=True)
    table.add_column("", no_wrap=True)
    for each in comparison.differences:
        table.add_row(_label(each, broken=width < NARROW), *_cells(each, values=width >= ROOM))
    return table


def _label(each: "Difference", *, broken: bool) -> Text:
    unit = f" {each.unit}" if each.unit in SHOWN_UNITS else ""
    metric = plain_text(each.metric)
    name = broken_name(metric) if broken else metric
    return Text(f"{name}{unit} {ARROWS[each.direction]}")


def _cells(each: "Difference", *, values: bool) -> tuple[str | Text, ...]:
    interval = each.ci.text("+.3g") if each.ci else ""
    outcome = Text(each.outcome.value, style=COLOURS.get(each.outcome.value, "dim"))
    both = (f"{each.first:.4g}", f"{each.second:.4g}") if values else ()
    return *both, f"{each.worse_by:+.3g}", interval, outcome


def _caption(comparison: "Comparison") -> Text:
    count = len(comparison.differences)
    paired = sum(each.paired for each in comparison.differences)
    lines = []
    if count:
        rows = "this row" if count == 1 else f"all {count} rows together"
        how = "pair by pair over the same sequences" if paired == count else UNPAIRED
        lines.append(f"{comparison.level:.0%} intervals for {rows}: {how}")
    lines += [f"INCOMPARABLE {name}: {why}" for name, why in comparison.incomparable]
    return Text("\n".join(map(plain_text, lines)))


def _short(label: str) -> Text:
    return Text(plain_text(label.partition("@")[0]))
