"""Tables of a page: the first rows as HTML, all of them as data that sorts and filters."""

from typing import Any

from saebench.report.charts import Cell, Table
from saebench.report.page.markup import Markup, badge, tag

SHOWN = 50
VERDICT = "verdict"


def table_html(table: Table, *, sae: str | None = None) -> Markup:
    """Return a table with its controls.

    Args:
        table: what to show.
        sae: the SAE chosen first, where the table's rows are about one each.
    """
    rows = [
        row for i, row in enumerate(table.rows) if not table.saes or sae in (None, table.saes[i])
    ]
    head = tag("tr", *(_header(name) for name in table.columns))
    body = tag("tbody", *(_row(table, row) for row in rows[:SHOWN]))
    shown = tag("table", tag("thead", head), body, aria_labelledby=f"{table.id}-title")
    return tag(
        "div",
        tag("div", tag("h3", table.title, id=f"{table.id}-title"), _controls(table), class_="bar"),
        tag("div", shown, class_="scroll", tabindex="0", role="region",
            aria_labelledby=f"{table.id}-title"),
        tag("p", class_="more", aria_live="polite"),
        tag("p", table.note, class_="n") if table.note else "",
        class_="table", data_table=table.id, data_rows=str(len(rows)), data_by_sae=bool(table.saes),
    )  # fmt: skip


def table_payload(table: Table) -> dict[str, Any]:
    """Return the table's data for the page's script."""
    return {
        "columns": table.columns,
        "rows": [[_content(cell) for cell in row] for row in table.rows],
        "saes": table.saes,
    }


def _content(cell: str | Cell) -> Any:
    return cell if isinstance(cell, str) else [cell.text, cell.sort]


def _said(cell: str | Cell) -> str:
    return cell if isinstance(cell, str) else cell.text


def _header(name: str) -> Markup:
    button = tag("button", name, tag("span", class_="arrow", aria_hidden="true"), type="button")
    return tag("th", button, scope="col", aria_sort="none")


def _row(table: Table, row: tuple[str | Cell, ...]) -> Markup:
    return tag("tr", *(_cell(name, cell) for name, cell in zip(table.columns, row, strict=True)))


def _cell(name: str, cell: str | Cell) -> Markup:
    if isinstance(cell, Cell):
        return tag("td", cell.text, class_="num")
    return tag("td", badge(cell) if name == VERDICT else cell)


def _controls(table: Table) -> Markup:
    find = tag(
        "label", tag("span", "Filter", class_="hidden"),
        tag("input", type="search", placeholder="Filter rows", class_="filter"),
    )  # fmt: skip
    csv = tag("button", "Copy as CSV", type="button", class_="csv")
    choosers = [_chooser(table, name) for name in table.columns if name in table.filters]
    return tag("div", *choosers, find, csv, class_="controls")


def _chooser(table: Table, name: str) -> Markup:
    at = table.columns.index(name)
    found = sorted({_said(row[at]) for row in table.rows})
    options = [tag("option", f"every {name}", value="")]
    options += [tag("option", value, value=value) for value in found]
    label = tag("span", name, class_="hidden")
    return tag("label", label, tag("select", *options, class_="chooser", data_column=name))
