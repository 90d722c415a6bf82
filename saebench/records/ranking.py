"""Places on a board: by one metric, and on the Pareto front of sparsity against faithfulness."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from saebench.errors import OptionError, nearest
from saebench.records.boards import Board, Facts, Row, Score
from saebench.records.run import Direction

SPARSITY = "sparsity.l0"
CASES = {
    SPARSITY: "sparsity",
    "fidelity.kl": "fidelity",
    "kl_gap.ratio[eps_random]": "kl_gap[scope=all]",
}
FAITHFULNESS = tuple(metric for metric in CASES if metric != SPARSITY)
"""The metrics that a Pareto front is drawn of, each against the features that fire."""

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
    """Where a value stands among a board's others.

    Attributes:
        place: counted from 1.
        best: the place if the value were at the better end of its interval.
        worst: and at the worse end.
        of: how many there are with it.
    """

    place: int
    best: int
    worst: int
    of: int


def rank(board: Board, metric: str, *, case: str | None = None) -> Ranking:
    """Return the board's rows in the order of a metric.

    Rows whose metric has an older version, or no value, get no place: they do not say the same.

    Args:
        board: rows measured on equal tokens.
        metric: the metric's name.
        case: which case's, where several report it.

    Raises:
        OptionError: for a metric that the board does not have, or that has no better side.
    """
    facts = board.metrics.get(metric)
    if facts is None:
        raise OptionError(f"unknown metric {metric!r}{nearest(metric, board.metrics)}")
    if facts.direction is None:
        raise OptionError(f"{metric}: this saebench does not know which way it is better")
    case = case or case_of(board, metric)
    scores = [(row, row.scores.get(case, {}).get(metric)) for row in board.rows]
    newest = max((score.version for _, score in scores if score), default=0)
    kept, unranked = [], []
    for row, score in scores:
        why = _no_place(score, newest)
        if why or score is None:
            unranked.append((row, why))
        else:
            kept.append((loss(score, facts), row, score))
    kept.sort(key=lambda entry: (entry[0], entry[1].sae, entry[1].weights_sha256))
    losses = [entry[0] for entry in kept]
    ranked = tuple(Ranked(1 + losses.index(lost), row, score) for lost, row, score in kept)
    return Ranking(metric, facts, ranked, tuple(unranked))


def case_of(board: Board, metric: str) -> str:
    """Return which of the board's cases reports a metric.

    Of several it is the one that substitutes all tokens at once, as every other property does.

    Raises:
        OptionError: where several do and none is that one, naming them.
    """
    found = sorted(
        {c for row in board.rows for c, scores in row.scores.items() if metric in scores}
    )
    at_once = [case for case in found if case.endswith(ALL_AT_ONCE)]
    if len(found) > 1 and len(at_once) == 1:
        return at_once[0]
    if len(found) > 1:
        raise OptionError(
            f"{metric} is reported by several cases: {', '.join(found)}; say which: --case NAME"
        )
    return found[0] if found else ""


def place_of(ranking: Ranking, score: Score, *, without: Row | None = None) -> Place | None:
    """Return where a score would stand, or stands where its own row is left out.

    None for one that cannot be placed: no value, or another version of the metric.
    """
    others = [each for each in ranking.ranked if each.row != without]
    if score.value is None or any(each.score.version != score.version for each in others):
        return None
    losses = [loss(each.score, ranking.facts) for each in others]
    ends = _losses_of_interval(score, ranking.facts)
    places = [1 + sum(lost < end for lost in losses) for end in ends]
    place = 1 + sum(lost < loss(score, ranking.facts) for lost in losses)
    return Place(place, min(place, *places), max(place, *places), len(others) + 1)


def front(points: Mapping[str, tuple[float, float]]) -> frozenset[str]:
    """Return the names that no other is better than in one respect and no worse in the other.

    Args:
        points: two losses by name, smaller is better.

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
    """Return the rows' keys on each Pareto front, by the metric that l0 is held against."""
    return {metric: _front_of(board, metric) for metric in FAITHFULNESS if _has(board, metric)}


def loss(score: Score, facts: Facts) -> float:
    """Return what is smaller for a better score: how far it is off, where it has a target."""
    assert score.value is not None
    return _loss_of_value(score.value, facts)


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


def _loss_of_value(value: float, facts: Facts) -> float:
    if facts.direction is Direction.TARGET:
        return abs(value - (facts.target or 0.0))
    return -value if facts.direction is Direction.HIGHER else value


def _losses_of_interval(score: Score, facts: Facts) -> Iterable[float]:
    """Return the losses at the interval's ends, and at the target where it lies inside."""
    if score.ci is None:
        return [loss(score, facts)]
    ends = [_loss_of_value(end, facts) for end in score.ci]
    inside = facts.target is not None and score.ci[0] <= facts.target <= score.ci[1]
    return [*ends, 0.0] if inside else ends


def _no_place(score: Score | None, newest: int) -> str:
    if score is None:
        return "not measured"
    if score.version != newest:
        return f"measured as version {score.version}, the others as {newest}"
    return "" if score.value is not None else "undefined"
