"""The table model: built once, rendered for terminal, Markdown, page, notebook and CSV."""

from dataclasses import dataclass, replace
from enum import StrEnum

from saebench.records.case_result import GateResult
from saebench.records.metric import Direction, Interval
from saebench.records.verdict import Verdict
from saebench.report.style import ARROWS, SHOWN_UNITS

ABSENT = "–"


class Kind(StrEnum):
    """What a column holds; it decides alignment, escaping and emphasis.

    NAME is an identifier: code in Markdown, broken at its parts where a terminal is narrow.
    INTERVAL belongs to the number in the column before it.
    """

    TEXT = "text"
    NAME = "name"
    NUMBER = "number"
    INTERVAL = "interval"
    VERDICT = "verdict"


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: what people read.
        value: what the column sorts by, and what CSV holds of a number; None where undefined.
        verdict: the verdict that the cell is coloured or marked by, if any.
        tone: rich's style of the cell in a terminal, where it has one of its own.
    """

    text: str
    value: float | None = None
    verdict: Verdict | None = None
    tone: str = ""


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: its heading; may be empty.
        kind: of its cells.
        optional: left out where every cell is empty.
        rank: columns of the highest rank are left out first where a terminal is too narrow,
            those of rank 0 never.
        is_wrapped: True or False where the kind does not decide whether long cells are wrapped.
        is_metric: the heading is a metric's name, broken at its parts in a terminal.
    """

    name: str
    kind: Kind = Kind.TEXT
    optional: bool = False
    rank: int = 0
    is_wrapped: bool | None = None
    is_metric: bool = False

    @property
    def is_right_aligned(self) -> bool:
        """True for numbers."""
        return self.kind is Kind.NUMBER

    @property
    def wraps(self) -> bool:
        """True where a terminal may wrap the cells: those of texts and names."""
        by_kind = self.kind in (Kind.TEXT, Kind.NAME)
        return by_kind if self.is_wrapped is None else self.is_wrapped


@dataclass(frozen=True)
class Row:
    """One row; ``sae`` is the SAE it is about, a ``faint`` one only gives context."""

    cells: tuple[Cell, ...]
    sae: str = ""
    faint: bool = False


@dataclass(frozen=True)
class Table:
    """A table for people and programs.

    Attributes:
        id: unique on a page; letters, digits and hyphens.
        title: what it holds.
        columns: in order.
        rows: in order.
        about: what the title leaves open, shown fainter than it.
        subtitle: more of that, on a line of its own.
        verdict: of all that the table is about, shown with the title.
        note: sample size, intervals, symbols, in words.
        remarks: more notes, a line each.
        filters: names of columns of which a page offers one value to choose.
        by_sae: on a page only the chosen SAE's rows are shown.
    """

    id: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    about: str = ""
    subtitle: str = ""
    verdict: Verdict | None = None
    note: str = ""
    remarks: tuple[str, ...] = ()
    filters: tuple[str, ...] = ()
    by_sae: bool = False

    def select(self, *names: str) -> "Table":
        """Return the table with these columns alone, in this order.

        Example:
            >>> table = Table("t", "", (Column("a"), Column("b")), (row("1", "2"),))
            >>> [cell.text for cell in table.select("b").rows[0].cells]
            ['2']
        """
        places = [self._place(name) for name in names]
        rows = (replace(row, cells=tuple(row.cells[i] for i in places)) for row in self.rows)
        return replace(self, columns=tuple(self.columns[i] for i in places), rows=tuple(rows))

    def without(self, *names: str) -> "Table":
        """Return the table without these columns."""
        return self.select(*(c.name for c in self.columns if c.name not in names))

    def compact(self) -> "Table":
        """Return the table without optional columns that are empty."""
        used = (
            column.name
            for i, column in enumerate(self.columns)
            if not column.optional or any(_has_content(row.cells[i]) for row in self.rows)
        )
        return self.select(*used)

    def of(self, sae: str) -> "Table":
        """Return the table with the rows about one SAE alone."""
        return replace(self, rows=tuple(row for row in self.rows if row.sae == sae))

    def cell(self, row: Row, name: str) -> Cell:
        """Return a row's cell in the column of this name."""
        return row.cells[self._place(name)]

    def changed(self, row: Row, **cells: Cell) -> Row:
        """Return a row with other cells in the columns of these names."""
        names = (column.name for column in self.columns)
        pairs = zip(names, row.cells, strict=True)
        return replace(row, cells=tuple(cells.get(name, cell) for name, cell in pairs))

    def texts(self) -> list[list[str]]:
        """Return the text of every cell, row by row."""
        return [[cell.text for cell in row.cells] for row in self.rows]

    def _place(self, name: str) -> int:
        return next(i for i, column in enumerate(self.columns) if column.name == name)


def _has_content(cell: Cell) -> bool:
    return cell.text not in ("", ABSENT)


def texts(*columns: str) -> tuple[Column, ...]:
    """Return columns of texts."""
    return tuple(map(Column, columns))


def names(*columns: str) -> tuple[Column, ...]:
    """Return columns of names."""
    return tuple(Column(name, Kind.NAME) for name in columns)


def numbers(*columns: str) -> tuple[Column, ...]:
    """Return columns of numbers."""
    return tuple(Column(name, Kind.NUMBER) for name in columns)


def row(*cells: Cell | str, sae: str = "", faint: bool = False) -> Row:
    """Return a row; a plain text is a cell without a value."""
    return Row(tuple(c if isinstance(c, Cell) else Cell(c) for c in cells), sae, faint)


def number(value: float | None, form: str = ".4g", *, unit: str = "", absent: str = ABSENT) -> Cell:
    """Return a number's cell; a unit is shown where a narrow table needs it.

    Example:
        >>> number(0.51234, unit="nats").text, number(0.25, "+.1%").text, number(None).text
        ('0.5123 nats', '+25.0%', '–')
    """
    if value is None:
        return Cell(absent)
    suffix = f" {unit}" if unit in SHOWN_UNITS else ""
    return Cell(f"{value:{form}}{suffix}", value)


def interval(ci: Interval | None, form: str = ".3g", *, absent: str = "") -> Cell:
    """Return an interval's cell, which sorts by the lower end.

    Example:
        >>> interval(Interval(0.25, 0.75, 0.95, "bootstrap")).text, interval(None, absent="–").text
        ('[0.25, 0.75]', '–')
    """
    if ci is None:
        return Cell(absent)
    return Cell(ci.text(form), ci.low)


def verdict_cell(verdict: Verdict) -> Cell:
    """Return a verdict's cell."""
    return Cell(verdict.value, verdict=verdict)


def with_arrow(metric: str, direction: Direction | None) -> str:
    """Return a metric's name with the arrow that says which way it is better."""
    return metric if direction is None else f"{metric} {ARROWS[direction]}"


def why_of(gate: GateResult) -> str:
    """Return why a gate's limit exists, where it did not pass."""
    if gate.verdict in (Verdict.PASS, Verdict.NEW, Verdict.SKIPPED):
        return ""
    return gate.why or ""
