"""Tables as Markdown and as CSV."""

import csv
import re
from collections.abc import Sequence
from io import StringIO

from saebench.report.style import LOOKS, plain_text
from saebench.report.tables import Cell, Column, Kind, Row, Table

_SPECIAL = re.compile(r"([\\`*_\[\]#|~<>&])")
_ITEM = re.compile(r"^(\d*)([-+.)])")


def markdown_table(table: Table) -> str:
    """Return the table as GitHub-flavoured Markdown; an interval joins the number before it."""
    used = table.compact()
    heads = [(i, c) for i, c in enumerate(used.columns) if c.kind is not Kind.INTERVAL]
    rule = ["--:" if column.is_right_aligned else "---" for _, column in heads]
    lines = [_line([_heading(column) for _, column in heads]), f"|{'|'.join(rule)}|"]
    lines += [_line([_content(used.columns, row, i) for i, _ in heads]) for row in used.rows]
    return "\n".join(lines)


def escaped(text: str) -> str:
    r"""Return a text that Markdown shows as it is, on one line.

    Example:
        >>> escaped("a|b <img> _c_")
        'a\\|b \\<img\\> \\_c\\_'
    """
    return _ITEM.sub(r"\1\\\2", _inline(text))


def _inline(text: str) -> str:
    """Return a text escaped that does not begin a line, as in a table's cell."""
    return _SPECIAL.sub(r"\\\1", plain_text(" ".join(text.split())))


def code(text: str) -> str:
    r"""Return a name as code: no Markdown, HTML or @mention in it comes to life.

    Example:
        >>> code("a|b@c")
        '`a\\|b@c`'
    """
    name = plain_text(" ".join(text.split())).replace("`", "'").replace("|", r"\|")
    return f"`{name}`"


def csv_table(table: Table) -> str:
    """Return the table as CSV: numbers with all their digits, undefined ones empty."""
    file = StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([column.name for column in table.columns])
    for row in table.rows:
        cells = zip(table.columns, row.cells, strict=True)
        writer.writerow([_csv_cell(column, cell) for column, cell in cells])
    return file.getvalue()


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _heading(column: Column) -> str:
    return code(column.name) if column.is_metric else _inline(column.name)


def _content(columns: Sequence[Column], row: Row, i: int) -> str:
    """Return a cell with the interval after it, and a number's verdict as a sign."""
    column, cell = columns[i], row.cells[i]
    text = _markdown_cell(column, cell)
    if i + 1 < len(columns) and columns[i + 1].kind is Kind.INTERVAL and cell.value is not None:
        after = row.cells[i + 1]
        text += f" {after.text}" if after.value is not None else ""
    if column.is_right_aligned and cell.verdict is not None:
        text += f" {LOOKS[cell.verdict].sign}"
    return text


def _markdown_cell(column: Column, cell: Cell) -> str:
    if column.kind is Kind.NAME:
        return code(cell.text) if cell.text.strip() else ""
    if column.kind is Kind.VERDICT and cell.verdict is not None:
        return f"{LOOKS[cell.verdict].sign} {_inline(cell.text)}"
    return cell.text if cell.value is not None else _inline(cell.text)


def _csv_cell(column: Column, cell: Cell) -> str:
    if column.is_right_aligned:
        return "" if cell.value is None else repr(cell.value)
    return _no_formula(cell.text)


def _no_formula(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula: quoted where it begins like one.

    Example:
        >>> _no_formula("=1+1"), _no_formula("l2-topk")
        ("'=1+1", 'l2-topk')
    """
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
