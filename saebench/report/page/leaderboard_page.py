"""The leaderboard as a page: every stored baseline, the Pareto fronts, what was published."""

from collections.abc import Iterator

from saebench.records.boards import Board, Facts, Leaderboard, Row, Score
from saebench.records.published import Figure as PublishedFigure
from saebench.records.published import Published
from saebench.records.ranking import CASES, FAITHFULNESS, SPARSITY, rank
from saebench.report.charts import Axis, Cell, Chart, Figure, Form, Layer, Table, View
from saebench.report.page.document import charts_by_owner, document, figure_html
from saebench.report.page.markup import joined, packed_json, tag
from saebench.report.page.page_tables import table_html, table_payload
from saebench.report.standing import RANKED_BY
from saebench.report.tables.leaderboard_table import MARKS
from saebench.report.terminal import ARROWS

SHOWN = (
    RANKED_BY,
    "fidelity.kl",
    "fidelity.ce_score",
    SPARSITY,
    "shrinkage.l2_ratio",
    "context_length.degradation",
    "cloze.accuracy_drop[whole]",
)
HEAD = ("model", "hook", "architecture", "SAE", "features", "place")
EXPLAINED = (
    f"SAEs are ranked by {RANKED_BY} among those of the same model and hook that were measured on "
    "the same tokens with the same noise. Published figures were measured elsewhere and have no "
    "place. Figures are drawn by plotly.js (MIT licence), which is inside this file."
)


def leaderboard_page(leaderboard: Leaderboard) -> str:
    """Return one self-contained HTML file."""
    tables = [_board_table(leaderboard)]
    tables += [_published_table(leaderboard.published)] if leaderboard.published else []
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


def _board_table(leaderboard: Leaderboard) -> Table:
    boards = leaderboard.boards
    facts = {name: b.metrics[name] for name in SHOWN for b in boards if name in b.metrics}
    ranked = [board for board in boards if RANKED_BY in board.metrics]
    rows = [row for board in ranked for row in _rows(board, boards, list(facts))]
    columns = (*HEAD, *(_column(*known) for known in facts.items()), "Pareto fronts", "tokens")
    return Table(
        "boards", "Every stored baseline", columns, tuple(rows),
        filters=("model", "hook", "architecture"),
        note=f"Square brackets: 95% CI over documents. Fronts against l0: {_legend()}.",
    )  # fmt: skip


def _legend() -> str:
    return ", ".join(f"{mark} {name}" for name, mark in MARKS.items())


def _column(name: str, facts: Facts) -> str:
    return f"{name} {ARROWS[facts.direction]}" if facts.direction else name


def _rows(
    board: Board, boards: tuple[Board, ...], names: list[str]
) -> Iterator[tuple[str | Cell, ...]]:
    """Give a row for each SAE of a board; metrics of longer texts and prompts are on others."""
    ranked = rank(board, RANKED_BY).ranked
    places = {each.row.key: each.place for each in ranked}
    beside = [
        b for b in boards if (b.model, b.hook, b.seed) == (board.model, board.hook, board.seed)
    ]
    for row in board.rows:
        place = places.get(row.key)
        told = Cell("–") if place is None else Cell(f"{place} of {len(ranked)}", place)
        same = [other for b in beside for other in b.rows if other.key == row.key]
        tokens = f"{board.dataset.sequences} × {board.dataset.context}, {board.dataset.name}"
        yield (
            board.model.name, board.hook, row.architecture, row.sae,
            Cell(f"{row.d_sae:,}", row.d_sae), told,
            *(_score([row, *same], name) for name in names),
            "".join(MARKS[name] for name in FAITHFULNESS if name in row.fronts), tokens,
        )  # fmt: skip


def _score(rows: list[Row], name: str) -> Cell:
    """Return the first value of a metric that the rows have, in its usual case."""
    cases = [CASES[name]] if name in CASES else [case for row in rows for case in row.scores]
    scores = (row.scores.get(case, {}).get(name) for row in rows for case in cases)
    found = next((score for score in scores if score and score.value is not None), None)
    if found is None or found.value is None:
        return Cell("–")
    ends = f" {found.ci.text()}" if found.ci else ""
    return Cell(f"{found.value:.4g}{ends}", found.value)


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
    found = row.scores.get(CASES[metric], {}).get(metric)
    return found if found and found.value and found.value > 0 else None


def _published_table(published: tuple[Published, ...]) -> Table:
    columns = ("model", "hook", "SAE", "figure", "published", "like our", "source", "conditions")
    rows = tuple(
        (each.model, row.hook, row.sae, figure.name, _said(figure), figure.like or "",
         f"{each.source.authors} {each.source.year}, {each.source.title}", each.conditions)
        for each in published
        for row in each.rows
        for figure in row.figures
    )  # fmt: skip
    return Table(
        "published", "Published elsewhere", columns, rows, filters=("model", "hook"),
        note="Never ranked: none of it was measured here.",
    )  # fmt: skip


def _said(figure: PublishedFigure) -> Cell:
    if figure.value is not None:
        return Cell(f"{figure.value:.4g} {figure.unit}", figure.value)
    if figure.low is not None and figure.high is not None:
        return Cell(f"{figure.low:.4g} … {figure.high:.4g} {figure.unit}", figure.low)
    return Cell(figure.says or "–")
