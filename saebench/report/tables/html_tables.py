"""Tables as HTML: on a page, where they are sorted and filtered, and in a notebook."""

from typing import Any

from saebench.report.page.markup import Markup, badge, tag
from saebench.report.style import LOOKS
from saebench.report.tables import Cell, Column, Kind, Table

FIRST_ROWS = 50  # in the page itself; its script has all of them
LONG = 60  # letters
VERDICT = "verdict"


def table_html(table: Table, *, sae: str | None = None) -> Markup:
    """Return a table with its controls: the first rows, until the page's script takes over.

    Args:
        table: what to show.
        sae: the SAE chosen first, where the table's rows are about one each.
    """
    used = table.compact()
    rows = [row for row in used.rows if not used.by_sae or sae in (None, row.sae)]
    head = tag("tr", *(_header(column.name) for column in used.columns))
    long = [column.name for column in used.columns if _is_long(used, column.name)]
    body = tag("tbody", *(_row(used.columns, row.cells, long) for row in rows[:FIRST_ROWS]))
    drawn = tag("table", tag("thead", head), body, aria_labelledby=f"{table.id}-title")
    about = tag("small", f" {used.about}") if used.about else ""
    title = tag("h3", used.title, about, id=f"{used.id}-title")
    return tag(
        "div",
        tag("div", title, _controls(used), class_="bar"),
        tag("div", drawn, class_="scroll", tabindex="0", role="region",
            aria_labelledby=f"{used.id}-title"),
        tag("p", class_="more", aria_live="polite"),
        *(tag("p", line, class_="n") for line in (used.note, *used.remarks) if line),
        class_="table", data_table=used.id, data_rows=str(len(rows)), data_by_sae=used.by_sae,
    )  # fmt: skip


def table_payload(table: Table) -> dict[str, Any]:
    """Return the table's data for the page's script: a number is its text and what it sorts by."""
    used = table.compact()
    return {
        "columns": [column.name for column in used.columns],
        "rows": [
            [
                [cell.text, cell.value] if _is_numeric(column) else cell.text
                for column, cell in zip(used.columns, row.cells, strict=True)
            ]
            for row in used.rows
        ],
        "saes": [row.sae for row in used.rows] if used.by_sae else [],
        "long": [i for i, column in enumerate(used.columns) if _is_long(used, column.name)],
    }


def notebook_table(table: Table) -> str:
    """Return a plain table without controls, verdicts in their colours."""
    used = table.compact()
    head = tag("tr", *(tag("th", column.name) for column in used.columns))
    rows = [tag("tr", *map(_notebook_cell, row.cells)) for row in used.rows]
    return tag("table", tag("thead", head), tag("tbody", *rows))


def _notebook_cell(cell: Cell) -> Markup:
    if cell.verdict is None:
        return tag("td", cell.text)
    return tag("td", tag("b", cell.text), style=f"color:{LOOKS[cell.verdict].css}")


def _is_long(table: Table, name: str) -> bool:
    """Return whether a column has sentences, which need room to be read."""
    return any(len(row.cells[0].text) > LONG for row in table.select(name).rows)


def _is_numeric(column: Column) -> bool:
    return column.kind in (Kind.NUMBER, Kind.INTERVAL)


def _header(name: str) -> Markup:
    button = tag("button", name, tag("span", class_="arrow", aria_hidden="true"), type="button")
    return tag("th", button, scope="col", aria_sort="none")


def _row(columns: tuple[Column, ...], cells: tuple[Cell, ...], long: list[str]) -> Markup:
    pairs = zip(columns, cells, strict=True)
    return tag("tr", *(_cell(*pair, is_long=pair[0].name in long) for pair in pairs))


def _cell(column: Column, cell: Cell, *, is_long: bool) -> Markup:
    if _is_numeric(column):
        return tag("td", cell.text, class_="num")
    content = badge(cell.text) if column.name == VERDICT else cell.text
    return tag("td", content, class_="long" if is_long else None)


def _controls(table: Table) -> Markup:
    find = tag(
        "label", tag("span", "Filter", class_="hidden"),
        tag("input", type="search", placeholder="Filter rows", class_="filter"),
    )  # fmt: skip
    csv = tag("button", "Copy as CSV", type="button", class_="csv")
    choosers = [_chooser(table, c.name) for c in table.columns if c.name in table.filters]
    return tag("div", *choosers, find, csv, class_="controls")


def _chooser(table: Table, name: str) -> Markup:
    values = sorted({row.cells[0].text for row in table.select(name).rows})
    options = [tag("option", f"every {name}", value="")]
    options += [tag("option", value, value=value) for value in values]
    label = tag("span", name, class_="hidden")
    return tag("label", label, tag("select", *options, class_="chooser", data_column=name))
