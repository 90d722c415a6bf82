"""The leaderboard for people: one table for each board, and where a run's SAEs would stand."""

from collections.abc import Iterable, Iterator, Sequence

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from saebench.records.boards import Board, Facts, Row, Score
from saebench.records.published import Figure, Published
from saebench.records.ranking import FAITHFULNESS, Ranking, case_of
from saebench.report.style import plain_text
from saebench.report.terminal import ARROWS, SHOWN_UNITS, broken_name

MARKS = dict(zip(FAITHFULNESS, ("●", "◆"), strict=True))
BESIDE = (
    "sparsity.l0",
    "fidelity.kl",
    "kl_gap.ratio[eps_random]",
    "shrinkage.l2_ratio",
    "fidelity.ce_score",
)
"""What is shown beside the metric that ranks, as far as there is room."""
NARROW, USUAL = 72, 92


def board_table(
    board: Board, ranking: Ranking, *, rows: Sequence[Row], width: int, beside: Sequence[str] = ()
) -> Table:
    """Return a board's table.

    Args:
        board: the board.
        ranking: its order.
        rows: which rows to show; places are those among all.
        width: of the terminal; fewer columns where it is narrow.
        beside: metrics to show too, instead of the usual ones.
    """
    names = [name for name in beside or _usual(board, ranking, width) if name != ranking.metric]
    shown = {row.key for row in rows}
    table = Table(
        title=_title(board, ranking, len(rows)), title_justify="left", box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0), pad_edge=False, caption=_legend(board, rows), caption_justify="left",
    )  # fmt: skip
    _add_columns(table, board, ranking, names, architecture=width >= NARROW)
    for ranked in ranking.ranked:
        if ranked.row.key in shown:
            head = (str(ranked.place), *_named(board, ranked.row, architecture=width >= NARROW))
            score = _cell(ranked.score), _interval(ranked.score)
            table.add_row(
                *head, *score, *_beside(board, ranked.row, names), _marks(board, ranked.row)
            )
    for row, why in ranking.unranked:
        if row.key in shown:
            head = ("–", *_named(board, row, architecture=width >= NARROW))
            table.add_row(
                *head, "–", Text(plain_text(why)), *_beside(board, row, names), "", style="dim"
            )
    return table


def published_table(published: Published) -> RenderableType:
    """Return one source's figures: never a rank, as nothing of it was measured here."""
    source = published.source
    title = Text(plain_text(f"{published.model}  "), style="bold not italic")
    title.append("published, not measured here, never ranked", style="yellow not bold")
    cited = plain_text(f"{source.authors} {source.year}, {source.title}")
    where = plain_text(f" <{source.url}>") if source.url else ""
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0),
        pad_edge=False, caption_justify="left",
        caption=Text(f"{cited}{where}\n{plain_text(published.conditions)}"),
    )  # fmt: skip
    for name in ("SAE", "figure", "published", "like our"):
        table.add_column(name, justify="right" if name == "published" else "left", overflow="fold")
    for row in published.rows:
        for i, figure in enumerate(row.figures):
            name = row.sae if i == 0 else ""
            told = (name, figure.name, _figure(figure), figure.like or "")
            table.add_row(*(Text(plain_text(text)) for text in told))
    return table


def _figure(figure: Figure) -> str:
    if figure.value is not None:
        return f"{figure.value:g} {figure.unit}".strip()
    if figure.low is not None and figure.high is not None:
        return f"{figure.low:g} … {figure.high:g} {figure.unit}".strip()
    return figure.says or "–"


def _title(board: Board, ranking: Ranking, shown: int) -> Text:
    data = board.dataset
    count = len(board.rows)
    title = Text(plain_text(board.place), style="bold not italic")
    saes = "1 SAE" if count == 1 else f"{count} SAEs"
    some = f"{shown} of {saes}" if shown < count else saes
    about = (
        f"  {some} by {plain_text(ranking.metric)}\n{plain_text(data.name)}, {data.sequences} "
        f"sequences of {data.context} tokens {data.fingerprint[:8]}, seed {board.seed}"
    )
    return title.append(about, style="not bold not italic dim")


def _usual(board: Board, ranking: Ranking, width: int) -> Iterable[str]:
    known = [name for name in BESIDE if name in board.metrics and name != ranking.metric]
    return known[: 1 if width < NARROW else 2 if width < USUAL else 3]


def _add_columns(
    table: Table, board: Board, ranking: Ranking, names: Sequence[str], *, architecture: bool
) -> None:
    table.add_column("", justify="right", no_wrap=True)
    longest = max((len(row.sae) for row in board.rows), default=0)
    table.add_column("SAE", overflow="fold", min_width=min(16, longest))
    if architecture:
        table.add_column("architecture", overflow="fold")
    table.add_column(_head(ranking.metric, ranking.facts), justify="right", overflow="fold")
    table.add_column("95% CI", no_wrap=True)
    for name in names:
        table.add_column(_head(name, board.metrics[name]), justify="right", overflow="fold")
    table.add_column("", no_wrap=True)


def _head(name: str, facts: Facts) -> Text:
    arrow = ARROWS[facts.direction] if facts.direction else ""
    unit = f"{facts.unit}" if facts.unit in SHOWN_UNITS else ""
    lines = [*broken_name(plain_text(name)).split("\n"), f"{unit} {arrow}".strip()]
    return Text("\n".join(line for line in lines if line))


def _named(board: Board, row: Row, *, architecture: bool) -> tuple[Text, ...]:
    name = Text(plain_text(row.sae))
    if sum(other.sae == row.sae for other in board.rows) > 1:
        name.append(f"@{row.weights_sha256[:8]}", style="dim")
    return (name, Text(plain_text(row.architecture))) if architecture else (name,)


def _beside(board: Board, row: Row, names: Sequence[str]) -> Iterator[str]:
    for name in names:
        score = row.scores.get(case_of(board, name), {}).get(name)
        yield _cell(score)


def _cell(score: Score | None) -> str:
    return "–" if score is None or score.value is None else f"{score.value:.4g}"


def _interval(score: Score) -> str:
    return score.ci.text() if score.ci else ""


def _marks(board: Board, row: Row) -> str:
    if len(board.rows) < 2:
        return ""
    return "".join(MARKS[metric] for metric in FAITHFULNESS if metric in row.fronts)


def _legend(board: Board, rows: Sequence[Row]) -> Text | None:
    on = [metric for metric in FAITHFULNESS if any(metric in row.fronts for row in rows)]
    if not on or len(board.rows) < 2:
        return None
    return Text("   ".join(f"{MARKS[metric]} Pareto front of l0 × {metric}" for metric in on))
