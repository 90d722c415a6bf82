"""Tables in a terminal, drawn by rich."""

import re
from collections.abc import Iterator

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from saebench.records.verdict import Verdict
from saebench.report.style import LOOKS, plain_text
from saebench.report.tables import Cell, Column, Kind, Table

PARTS = re.compile(r"\[?[^.\[]*\.?")
WRAPPED = 24  # the width that a wrapped column needs at most, to be read
GAP = 2  # between columns


def rich_table(table: Table, *, width: int) -> RichTable:
    """Return the table for a terminal.

    Args:
        table: what to show.
        width: of the terminal; columns that are too much for it are left out.
    """
    fitting = fitted(table.compact(), width=width)
    drawn = RichTable(
        title=_title(fitting), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0),
        pad_edge=False, caption=_caption(fitting),
        caption_justify="left",
    )  # fmt: skip
    for column in fitting.columns:
        drawn.add_column(
            _heading(column), justify="right" if column.is_right_aligned else "left",
            no_wrap=not column.wraps, overflow="fold",
        )  # fmt: skip
    fainter = False
    for row in fitting.rows:
        if row.faint and not fainter and drawn.row_count:
            drawn.add_section()
        fainter = fainter or row.faint
        cells = (_cell(*each) for each in zip(fitting.columns, row.cells, strict=True))
        drawn.add_row(*cells, style="dim" if row.faint else None)
    return drawn


def fitted(table: Table, *, width: int) -> Table:
    """Return the table without columns of the highest ranks, as many as the width demands."""
    while sum(_needed(table, i) + GAP for i in range(len(table.columns))) > width:
        highest = max((column.rank for column in table.columns), default=0)
        if not highest:
            break
        table = table.without(*(c.name for c in table.columns if c.rank == highest))
    return table


class BreakableName:
    """A metric's or an SAE's name, which a narrow column breaks before ``[`` and after ``.``."""

    def __init__(self, text: Text) -> None:
        self._text = text
        self._parts = name_parts(text.plain)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Measure: at least as wide as the longest part, at most as the full name."""
        widths = [cell_len(part) for part in self._parts] or [0]
        most = min(self._text.cell_len, options.max_width)
        return Measurement(min(max(widths), most), most)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Yield lines of as many parts as fit."""
        lines, room = [""], options.max_width
        for part in self._parts:
            if lines[-1] and cell_len(lines[-1] + part) > room:
                lines.append("")
            lines[-1] += part
        for line in lines:
            text = Text(line, style=self._text.style, overflow="fold")
            text.justify = options.justify
            yield text


def name_parts(name: str) -> list[str]:
    """Return the parts at which a name may be broken.

    Example:
        >>> name_parts("kl_gap.ratio[eps_random] ↓")
        ['kl_gap.', 'ratio', '[eps_random] ↓']
    """
    return [part for part in PARTS.findall(name) if part]


def _needed(table: Table, i: int) -> int:
    """Return the width that a column needs to be read."""
    column = table.columns[i]
    heading = max(cell_len(line) for line in _heading(column).plain.split("\n"))
    cells = max((cell_len(row.cells[i].text) for row in table.rows), default=0)
    return max(heading, min(cells, WRAPPED) if column.wraps else cells)


def _title(table: Table) -> Text | None:
    if not table.title:
        return None
    title = Text(plain_text(table.title), style="bold not italic")
    if table.verdict is not None:
        title.append("  ").append(table.verdict.value, style=LOOKS[table.verdict].colour)
    about = f"  {plain_text(table.about)}" if table.about else ""
    subtitle = f"\n{plain_text(table.subtitle)}" if table.subtitle else ""
    return title.append(about + subtitle, style="not bold not italic dim")


def _caption(table: Table) -> Text | None:
    lines = [plain_text(line) for line in (table.note, *table.remarks) if line]
    return Text("\n".join(lines) + "\n") if lines else None


def _heading(column: Column) -> Text:
    name = plain_text(column.name)
    if not column.is_metric:
        return Text(name)
    metric, _, unit_and_arrow = name.partition(" ")
    return Text("\n".join([*name_parts(metric), unit_and_arrow]).strip())


def _cell(column: Column, cell: Cell) -> Text | BreakableName:
    text = Text(plain_text(cell.text), style=cell.tone or _colour(cell.verdict))
    return BreakableName(text) if column.kind is Kind.NAME else text


def _colour(verdict: Verdict | None) -> str:
    return "" if verdict is None else LOOKS[verdict].colour
