"""The leaderboard as a page: every stored baseline, Pareto fronts, published figures."""

from collections.abc import Iterator

from saebench.records.boards import Board, Leaderboard, Row, Score
from saebench.records.ranking import CASES, FAITHFULNESS, SPARSITY
from saebench.report.charts import Axis, Chart, Figure, Form, Layer, View
from saebench.report.page.document import charts_by_owner, document, figure_html
from saebench.report.page.markup import joined, packed_json, tag
from saebench.report.standing import RANKED_BY
from saebench.report.tables import Table
from saebench.report.tables.board_tables import leaderboard_table, published_table
from saebench.report.tables.html_tables import table_html, table_payload

EXPLAINED = (
    f"SAEs are ranked by {RANKED_BY} among those of the same model and hook that were measured on "
    "the same tokens with the same noise. Published figures were measured elsewhere and have no "
    "place. Figures are drawn by plotly.js (MIT licence), which is inside this file."
)


def leaderboard_page(leaderboard: Leaderboard) -> str:
    """Return one self-contained HTML file."""
    tables = [leaderboard_table(leaderboard)]
    tables += [published_table(leaderboard.published)] if leaderboard.published else []
    figures = list(_figures(leaderboard))
    saes = {row.key for board in leaderboard.boards for row in board.rows}
    models = {board.model.name for board in leaderboard.boards}
    of = next(iter(models)) if len(models) == 1 else f"{len(models)} models"
    title = tag("h1", f"Leaderboard: {len(saes)} SAEs of {of}")
    body = joined(
        tag("a", "Skip to the content", href="#main", class_="skip"),
        tag("header", tag("nav", tag("ul", *_links(tables, figures)), aria_label="Sections"),
            tag("div", tag("button", "Theme", type="button", id="theme",
                           aria_label="Light or dark"), class_="choices")),
        tag("main", tag("section", title, tag("p", EXPLAINED, class_="question"), id="summary"),
            table_html(tables[0]), tag("div", *map(figure_html, figures), class_="grid"),
            *map(table_html, tables[1:]), id="main"),
    )  # fmt: skip
    blocks = {f"table-{table.id}": packed_json(table_payload(table)) for table in tables}
    blocks["charts"] = packed_json(charts_by_owner(figures)[None])
    blocks["about"] = packed_json({"saes": [], "left_out": []})
    return document("Leaderboard · saebench", body, blocks, plotly=bool(figures))


def _links(tables: list[Table], figures: list[Figure]) -> Iterator[str]:
    targets = [(f"{table.id}-title", table.title) for table in tables]
    targets += [(figure.id, figure.title) for figure in figures]
    yield from (tag("li", tag("a", name, href=f"#{id}")) for id, name in targets)


def _figures(leaderboard: Leaderboard) -> Iterator[Figure]:
    views = [
        View(chart, label=f"{board.place} · {metric}")
        for board in leaderboard.boards
        for metric in FAITHFULNESS
        if (chart := _front(board, metric))
    ]
    views.sort(key=lambda view: -sum(len(layer.x) for layer in view.chart.layers))
    if views:
        yield Figure(
            "fronts", "Pareto fronts",
            "Down and left is better. The line joins the SAEs that no other beats in both.",
            tuple(views), wide=True,
        )  # fmt: skip


def _front(board: Board, metric: str) -> Chart | None:
    points = [
        (row, l0, score)
        for row in board.rows
        if (l0 := _value(row, SPARSITY)) and (score := _value(row, metric))
    ]
    if not points:
        return None
    points.sort(key=lambda point: point[1].value or 0)
    best = [point for point in points if metric in point[0].fronts]
    line = Layer("Pareto front", Form.LINE, [a.value for _, a, _ in best],
                 [b.value for *_, b in best], key="front", faint=True)  # fmt: skip
    dots = Layer(
        "SAEs", Form.DOTS, [a.value for _, a, _ in points], [b.value for *_, b in points],
        [b.ci.low if b.ci else None for *_, b in points],
        [b.ci.high if b.ci else None for *_, b in points],
        labels=[row.sae for row, *_ in points], key="sae",
    )  # fmt: skip
    n = f"n = {board.dataset.sequences} documents, {len(points)} SAEs"
    unit = board.metrics[metric].unit
    axes = Axis("features that fire, L0", log=True), Axis(f"{metric}, {unit}", log=True)
    return Chart(*axes, (line, dots), n, "95% CI over documents")


def _value(row: Row, metric: str) -> Score | None:
    """Return a score that a logarithmic axis can show."""
    score = row.scores.get(CASES[metric], {}).get(metric)
    return score if score and score.value and score.value > 0 else None
