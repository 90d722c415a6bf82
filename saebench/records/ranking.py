"""Ranks on a board: by one metric, and on the Pareto front of sparsity against faithfulness."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from saebench.errors import OptionError, nearest
from saebench.records.boards import Board, Facts, Row, Score

SPARSITY = "sparsity.l0"
CASES = {
    SPARSITY: "sparsity",
    "fidelity.kl": "fidelity",
    "kl_gap.ratio[eps_random]": "kl_gap[scope=all]",
}
FAITHFULNESS = tuple(metric for metric in CASES if metric != SPARSITY)
"""The metrics that a Pareto front is drawn of, each against the number of active features."""

ALL_AT_ONCE = "[scope=all]"


@dataclass(frozen=True)
class Ranked:
    """A row with its place, counted from 1; equal values share one."""

    place: int
    row: Row
    score: Score


@dataclass(frozen=True)
class Ranking:
    """The rows of a board in the order of a metric.

    Attributes:
        metric: the metric.
        facts: its unit and direction.
        ranked: the best first.
        unranked: rows that have no place, and why.
    """

    metric: str
    facts: Facts
    ranked: tuple[Ranked, ...]
    unranked: tuple[tuple[Row, str], ...]


@dataclass(frozen=True)
class Place:
    """The rank of a value on a board, with its uncertainty.

    Attributes:
        place: counted from 1.
        best: the place if the value were at the better end of its interval.
        worst: and at the worse end.
        of: the number of values, this one included.
    """

    place: int
    best: int
    worst: int
    of: int


def rank(board: Board, metric: str, *, case: str | None = None) -> Ranking:
    """Return the board's rows in the order of a metric.

    Rows whose metric has an older version, or no value, are not ranked.

    Args:
        board: rows measured on equal tokens.
        metric: the metric's name.
        case: the case that reports it, where several do.

    Raises:
        OptionError: for a metric that the board does not have, or that has no better side.
    """
    facts = board.metrics.get(metric)
    if facts is None:
        raise OptionError(f"unknown metric {metric!r}{nearest(metric, board.metrics)}")
    if facts.direction is None:
        raise OptionError(f"{metric}: this saebench does not know which way is better")
    case = case or case_of(board, metric)
    scores = [(row, row.scores.get(case, {}).get(metric)) for row in board.rows]
    newest = max((score.version for _, score in scores if score), default=0)
    comparable, unranked = [], []
    for row, score in scores:
        why = _why_unranked(score, newest)
        if why or score is None:
            unranked.append((row, why))
        else:
            comparable.append((loss(score, facts), row, score))
    comparable.sort(key=lambda entry: (entry[0], entry[1].sae, entry[1].weights_sha256))
    losses = [entry[0] for entry in comparable]
    ranked = tuple(Ranked(1 + losses.index(own), row, score) for own, row, score in comparable)
    return Ranking(metric, facts, ranked, tuple(unranked))


def case_of(board: Board, metric: str) -> str:
    """Return the board's case that reports a metric; "" where none does.

    Of several it is the one that substitutes all tokens at once, as every other property does.

    Raises:
        OptionError: where several do and none is that one, naming them.
    """
    cases = sorted(
        {c for row in board.rows for c, scores in row.scores.items() if metric in scores}
    )
    at_once = [case for case in cases if case.endswith(ALL_AT_ONCE)]
    if len(cases) > 1 and len(at_once) == 1:
        return at_once[0]
    if len(cases) > 1:
        raise OptionError(
            f"{metric} is reported by several cases: {', '.join(cases)}; say which: --case NAME"
        )
    return cases[0] if cases else ""


def place_of(ranking: Ranking, score: Score, *, without: Row | None = None) -> Place | None:
    """Return the rank of a score among the others.

    Args:
        ranking: the ranked rows.
        score: what to place.
        without: the score's own row, where it is on the board.

    Returns:
        None for a score that cannot be placed: no value, or another version of the metric.
    """
    others = [each for each in ranking.ranked if each.row != without]
    if score.value is None or any(each.score.version != score.version for each in others):
        return None
    losses = [loss(each.score, ranking.facts) for each in others]
    ends = _losses_of_interval(score, ranking.facts)
    places = [1 + sum(other < end for other in losses) for end in ends]
    place = 1 + sum(other < loss(score, ranking.facts) for other in losses)
    return Place(place, min(place, *places), max(place, *places), len(others) + 1)


def front(points: Mapping[str, tuple[float, float]]) -> frozenset[str]:
    """Return the names on the Pareto front: no other is as good in both losses and better in one.

    Args:
        points: two losses by name; smaller is better.

    Example:
        >>> sorted(front({"a": (1, 3), "b": (2, 2), "c": (3, 3)}))
        ['a', 'b']
    """
    return frozenset(
        name
        for name, (x, y) in points.items()
        if not any(a <= x and b <= y and (a, b) != (x, y) for a, b in points.values())
    )


def fronts(board: Board) -> dict[str, frozenset[str]]:
    """Return the rows' keys on each Pareto front, by the metric that is drawn against L0."""
    return {metric: _front_of(board, metric) for metric in FAITHFULNESS if _has(board, metric)}


def loss(score: Score, facts: Facts) -> float:
    """Return a score turned so that smaller is better."""
    assert score.value is not None
    return facts.loss(score.value)


def _front_of(board: Board, metric: str) -> frozenset[str]:
    axes = []
    for name in (SPARSITY, metric):
        ranking = rank(board, name, case=CASES[name])
        axes.append({each.row.key: loss(each.score, ranking.facts) for each in ranking.ranked})
    first, second = axes
    return front({key: (first[key], second[key]) for key in first if key in second})


def _has(board: Board, metric: str) -> bool:
    facts = [board.metrics.get(name) for name in (SPARSITY, metric)]
    return all(each is not None and each.direction is not None for each in facts)


def _losses_of_interval(score: Score, facts: Facts) -> Iterable[float]:
    """Return the losses at the interval's ends, and at the target where it lies inside."""
    if score.ci is None:
        return [loss(score, facts)]
    ends = [facts.loss(end) for end in (score.ci.low, score.ci.high)]
    inside = facts.target is not None and facts.target in score.ci
    return [*ends, 0.0] if inside else ends


def _why_unranked(score: Score | None, newest: int) -> str:
    if score is None:
        return "not measured"
    if score.version != newest:
        return f"measured as version {score.version}, the others as {newest}"
    return "" if score.value is not None else "undefined"
