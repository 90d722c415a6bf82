"""Tables that set SAEs side by side: comparisons, leaderboards, published figures."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from saebench.records.boards import Board, Leaderboard, Score
from saebench.records.boards import Row as BoardRow
from saebench.records.published import Figure, Published
from saebench.records.ranking import CASES, FAITHFULNESS, SPARSITY, Ranking, case_of, rank
from saebench.report.standing import RANKED_BY
from saebench.report.style import SHOWN_UNITS
from saebench.report.tables import (
    ABSENT,
    Cell,
    Column,
    Kind,
    Row,
    Table,
    interval,
    names,
    number,
    numbers,
    row,
    texts,
    with_arrow,
)

if TYPE_CHECKING:
    from saebench.compare.comparison import Comparison
    from saebench.compare.differences import Difference

MARKS = dict(zip(FAITHFULNESS, ("●", "◆"), strict=True))
BESIDE = (
    SPARSITY,
    "fidelity.kl",
    RANKED_BY,
    "shrinkage.l2_ratio",
    "fidelity.ce_score",
)
"""Metrics shown in the terminal next to the one that ranks, as far as there is room."""
MOST_BESIDE = 3
ON_PAGE = (
    RANKED_BY,
    "fidelity.kl",
    "fidelity.ce_score",
    SPARSITY,
    "shrinkage.l2_ratio",
    "context_length.degradation",
    "cloze.accuracy_drop[whole]",
)
OUTCOMES = ("worse", "unclear", "no interval", "better")
TONES = {"worse": "bold red", "better": "green"}
PAIRED = "pair by pair over the same sequences"
UNPAIRED = (
    "unpaired, and wider than paired ones: where both result files have their per-sequence sums "
    "next to them (--sae-json writes RUN.sums.npz), or are baselines, intervals are paired"
)


def comparison_table(comparisons: Sequence["Comparison"]) -> Table:
    """Return every difference, significantly worse ones first."""
    pairs = [(each, one) for each in comparisons for one in each.differences]
    if len(comparisons) > 1:
        pairs.sort(key=lambda pair: _by_outcome(pair[1]))
    columns = (
        *names("compared with", "SAE", "metric"),
        Column("before", Kind.NUMBER, rank=1),
        Column("after", Kind.NUMBER, rank=1),
        Column("worse by", Kind.NUMBER),
        Column("CI", Kind.INTERVAL),
        *texts("paired", "outcome"),
    )
    return Table(
        "differences", "Differences, the worst first", columns,
        tuple(_difference_row(*pair) for pair in pairs),
        note=_about_intervals(comparisons), filters=("outcome",),
    )  # fmt: skip


def comparison_tables(comparisons: Iterable["Comparison"]) -> Iterator[Table]:
    """Yield a table for each two SAEs, for the terminal; its remarks say what is incomparable."""
    for each in comparisons:
        table = comparison_table([each]).without("compared with", "SAE", "paired")
        headings = {"before": _short(each.first), "after": _short(each.second), "outcome": ""}
        columns = (replace(c, name=headings.get(c.name, c.name)) for c in table.columns)
        remarks = tuple(f"INCOMPARABLE {name}: {why}" for name, why in each.incomparable)
        yield replace(
            table, title=each.second, about=f"compared with {each.first}",
            columns=tuple(columns), remarks=remarks,
        )  # fmt: skip


def board_table(
    board: Board, ranking: Ranking, *, rows: Sequence[BoardRow], beside: Sequence[str] = ()
) -> Table:
    """Return a board's table for the terminal, in the order of a metric.

    Args:
        board: the board.
        ranking: its order.
        rows: which rows to show; places are those among all.
        beside: metrics to show next to it, instead of the usual ones.
    """
    usual = [name for name in BESIDE if name in board.metrics and name != ranking.metric]
    others = [name for name in beside if name != ranking.metric] if beside else usual[:MOST_BESIDE]
    chosen = {each.key for each in rows}
    columns = (
        Column("#", Kind.NUMBER),
        Column("SAE", Kind.NAME),
        Column("architecture", rank=2),
        _metric_column(board, ranking.metric),
        Column("95% CI", Kind.TEXT if ranking.unranked else Kind.INTERVAL),
        *(_metric_column(board, name, rank=0 if beside else i + 1 if i else 0)
          for i, name in enumerate(others)),
        Column("", optional=True),
    )  # fmt: skip
    data = board.dataset
    return Table(
        "board", board.place, columns,
        tuple(_board_rows(board, ranking, chosen, others)),
        about=f"{_counted(board, rows)} by {ranking.metric}",
        subtitle=f"{data.name}, {data.sequences} sequences of {data.context} tokens "
        f"{data.fingerprint[:8]}, seed {board.seed}",
        note=_legend(board, rows),
    )  # fmt: skip


def leaderboard_table(leaderboard: Leaderboard) -> Table:
    """Return every SAE of every board, for a page."""
    boards = leaderboard.boards
    facts = {name: b.metrics[name] for name in ON_PAGE for b in boards if name in b.metrics}
    columns = (
        *(*texts("model"), *names("hook"), *texts("architecture"), *names("SAE")),
        *numbers("features", "place"),
        *numbers(*(with_arrow(name, known.direction) for name, known in facts.items())),
        *texts("Pareto fronts", "tokens"),
    )
    ranked = [board for board in boards if RANKED_BY in board.metrics]
    rows = [each for board in ranked for each in _page_rows(board, boards, list(facts))]
    legend = ", ".join(f"{mark} {name}" for name, mark in MARKS.items())
    return Table(
        "boards", "Every stored baseline", columns, tuple(rows),
        filters=("model", "hook", "architecture"),
        note=f"Square brackets: 95% CI over documents. Fronts against l0: {legend}.",
    )  # fmt: skip


def published_table(published: Sequence[Published]) -> Table:
    """Return published figures: never with a rank, as nothing of it was measured here."""
    columns = (
        *(*texts("model"), *names("hook", "SAE"), *texts("figure")),
        Column("published", Kind.NUMBER, is_wrapped=True),
        *(*names("like our"), *texts("source", "conditions")),
    )
    rows = tuple(
        row(each.model, line.hook, line.sae, figure.name, _figure(figure), figure.like or "",
            f"{each.source.authors} {each.source.year}, {each.source.title}", each.conditions)
        for each in published
        for line in each.rows
        for figure in line.figures
    )  # fmt: skip
    return Table(
        "published", "Published elsewhere", columns, rows, filters=("model", "hook"),
        note="Never ranked: none of it was measured here.",
    )  # fmt: skip


def published_tables(published: Iterable[Published]) -> Iterator[Table]:
    """Yield the published figures of one source each, for the terminal."""
    for each in published:
        source = each.source
        link = f" <{source.url}>" if source.url else ""
        cited = f"{source.authors} {source.year}, {source.title}{link}"
        table = published_table([each]).select("SAE", "figure", "published", "like our")
        yield replace(
            table, title=f"{each.model}  published, not measured here, never ranked",
            rows=tuple(_named_once(table.rows)), note=cited, remarks=(each.conditions,),
        )  # fmt: skip


def _difference_row(comparison: "Comparison", difference: "Difference") -> Row:
    outcome = difference.outcome.value
    unit = f" {difference.unit}" if difference.unit in SHOWN_UNITS else ""
    return row(
        comparison.first,
        comparison.second,
        with_arrow(f"{difference.metric}{unit}", difference.direction),
        number(difference.first),
        number(difference.second),
        number(difference.worse_by, "+.3g"),
        interval(difference.ci, "+.3g"),
        "paired" if difference.paired else "unpaired",
        Cell(outcome, tone=TONES.get(outcome, "dim")),
        sae=comparison.second,
    )


def _by_outcome(difference: "Difference") -> tuple[int, float]:
    """Sort by outcome, the worse first, then by the share of the value before."""
    share = difference.worse_by / (abs(difference.first) or 1.0)
    return OUTCOMES.index(difference.outcome.value), -share


def _about_intervals(comparisons: Sequence["Comparison"]) -> str:
    differences = [one for each in comparisons for one in each.differences]
    if not differences:
        return ""
    count = len(differences)
    rows = "this row" if count == 1 else f"all {count} rows together"
    rows = rows if len(comparisons) == 1 else "all rows of a pair together"
    how = PAIRED if all(one.paired for one in differences) else UNPAIRED
    return f"{comparisons[0].level:.0%} intervals for {rows}: {how}"


def _short(label: str) -> str:
    return label.partition("@")[0]


def _counted(board: Board, rows: Sequence[BoardRow]) -> str:
    count = len(board.rows)
    saes = "1 SAE" if count == 1 else f"{count} SAEs"
    return f"{len(rows)} of {saes}" if len(rows) < count else saes


def _metric_column(board: Board, name: str, *, rank: int = 0) -> Column:
    facts = board.metrics[name]
    unit = f" {facts.unit}" if facts.unit in SHOWN_UNITS else ""
    heading = with_arrow(f"{name}{unit}", facts.direction)
    return Column(heading, Kind.NUMBER, rank=rank, is_metric=True)


def _board_rows(
    board: Board, ranking: Ranking, chosen: set[str], others: Sequence[str]
) -> Iterator[Row]:
    for ranked in ranking.ranked:
        if ranked.row.key in chosen:
            yield row(
                number(ranked.place, "d"),
                *_named(board, ranked.row),
                _value(ranked.score),
                interval(ranked.score.ci),
                *_others(board, ranked.row, others),
                _marks(board, ranked.row),
            )
    for each, why in ranking.unranked:
        if each.key in chosen:
            yield row(ABSENT, *_named(board, each), ABSENT, why, *_others(board, each, others), "")


def _named(board: Board, each: BoardRow) -> tuple[str, str]:
    """Return an SAE's name, with its weights' hash where another has it too, and architecture."""
    alike = Counter(other.sae for other in board.rows)[each.sae] > 1
    name = f"{each.sae}@{each.weights_sha256[:8]}" if alike else each.sae
    return name, each.architecture


def _others(board: Board, each: BoardRow, metrics: Sequence[str]) -> Iterator[Cell]:
    for name in metrics:
        yield _value(each.scores.get(case_of(board, name), {}).get(name))


def _value(score: Score | None) -> Cell:
    return number(None if score is None else score.value)


def _marks(board: Board, each: BoardRow) -> str:
    if len(board.rows) < 2:
        return ""
    return "".join(MARKS[metric] for metric in FAITHFULNESS if metric in each.fronts)


def _legend(board: Board, rows: Sequence[BoardRow]) -> str:
    on = [metric for metric in FAITHFULNESS if any(metric in each.fronts for each in rows)]
    if not on or len(board.rows) < 2:
        return ""
    return "   ".join(f"{MARKS[metric]} Pareto front of l0 × {metric}" for metric in on)


def _page_rows(board: Board, boards: Sequence[Board], metrics: list[str]) -> Iterator[Row]:
    """Yield a row for each SAE of a board; metrics of longer texts and prompts are on others."""
    ranked = rank(board, RANKED_BY).ranked
    places = {each.row.key: each.place for each in ranked}
    alike = [
        b for b in boards if (b.model, b.hook, b.seed) == (board.model, board.hook, board.seed)
    ]
    for each in board.rows:
        place = places.get(each.key)
        same = [other for b in alike for other in b.rows if other.key == each.key]
        yield row(
            board.model.name,
            board.hook,
            each.architecture,
            each.sae,
            number(each.d_sae, ",d"),
            Cell(ABSENT) if place is None else Cell(f"{place} of {len(ranked)}", place),
            *(_value_with_ends([each, *same], name) for name in metrics),
            "".join(MARKS[name] for name in FAITHFULNESS if name in each.fronts),
            f"{board.dataset.sequences} × {board.dataset.context}, {board.dataset.name}",
        )


def _value_with_ends(rows: list[BoardRow], name: str) -> Cell:
    """Return the first value of a metric that the rows have, in its usual case."""
    cases = [CASES[name]] if name in CASES else [case for each in rows for case in each.scores]
    scores = (each.scores.get(case, {}).get(name) for each in rows for case in cases)
    score = next((score for score in scores if score and score.value is not None), None)
    if score is None:
        return Cell(ABSENT)
    ends = f" {interval(score.ci).text}" if score.ci else ""
    return replace(_value(score), text=f"{_value(score).text}{ends}")


def _figure(figure: Figure) -> Cell:
    if figure.value is not None:
        return Cell(f"{figure.value:g} {figure.unit}".strip(), figure.value)
    if figure.low is not None and figure.high is not None:
        return Cell(f"{figure.low:g} … {figure.high:g} {figure.unit}".strip(), figure.low)
    return Cell(figure.says or ABSENT)


def _named_once(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield the rows with each SAE's name in its first row alone."""
    before = None
    for each in rows:
        name, *rest = each.cells
        yield each if name.text != before else replace(each, cells=(Cell(""), *rest))
        before = name.text
