"""How much worse one SAE is than another in one metric, with an interval."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from scipy.special import ndtri

from saebench.properties.base import MetricSpec
from saebench.records.boards import Score
from saebench.records.run import Basis, Direction, Interval
from saebench.statistics.bootstrap import Formula, Sampled, Table, sample
from saebench.statistics.clusters import chosen, side_by_side
from saebench.statistics.levels import LEVEL, current_level


class Outcome(StrEnum):
    """What the interval of a difference shows."""

    WORSE = "worse"
    UNCLEAR = "unclear"
    BETTER = "better"
    UNKNOWN = "no interval"


@dataclass(frozen=True)
class SideCase:
    """One case of one SAE: its metrics, and the per-sequence sums where they are at hand.

    ``level`` is that of the metrics' intervals; ``noise`` what they change by where they are
    measured again, as far as that was measured.
    """

    basis: Basis | None
    metrics: Mapping[str, Score]
    table: Table | None = None
    level: float = LEVEL
    noise: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """How much worse the second is in one metric.

    ``worse_by`` is positive where the second is worse, in the metric's unit: its loss less the
    first's, where the loss of a metric with a target is the distance from it.
    """

    case: str
    metric: str
    unit: str
    direction: Direction
    first: float
    second: float
    worse_by: float
    ci: tuple[float, float] | None
    paired: bool
    outcome: Outcome


def difference(
    spec: MetricSpec, cases: tuple[SideCase, SideCase], *, case: str, level: float
) -> "Difference | str":
    """Return one metric's difference, or in words why there is none.

    Args:
        spec: the metric's definition.
        cases: of the two SAEs, on equal tokens; both report the metric.
        case: what the case is called.
        level: of the interval.
    """
    one, two = (each.metrics[spec.name] for each in cases)
    if one.version != two.version:
        return f"measured as versions {one.version} and {two.version}; measure the older again"
    if one.value is None or two.value is None:
        return "undefined for one of the two"
    found = _sampled(spec, one, cases)
    paired = found.interval(level) if found is not None else None
    interval = (paired.low, paired.high) if paired else _unpaired(spec, cases, level)
    lost = _loss(spec, two.value) - _loss(spec, one.value)
    return Difference(
        case, spec.name, spec.unit, spec.direction, one.value, two.value, float(lost),
        interval, paired is not None, _outcome(interval),
    )  # fmt: skip


@dataclass(frozen=True)
class Worse:
    """How much worse the second of two is, in the metric's unit or as a share of the first.

    Attributes:
        value: positive where it is worse.
        ci: its interval; None where there is none.
        sampled: its distribution over pairs of sequences; None where it is not paired.
    """

    value: float
    ci: Interval | None
    sampled: Sampled | None

    @property
    def paired(self) -> bool:
        """Both sides' sums were at hand."""
        return self.sampled is not None


def how_much_worse(
    spec: MetricSpec, cases: tuple[SideCase, SideCase], *, relative: bool
) -> Worse | str:
    """Return how much worse the second is, with its interval at the current level.

    Args:
        spec: the metric's definition.
        cases: of the two SAEs, on equal tokens; both report the metric.
        relative: as a share of the first's value.

    Returns:
        In words why there is none, where the two do not compare.
    """
    one, two = (each.metrics[spec.name] for each in cases)
    if one.version != two.version:
        return f"measured as versions {one.version} and {two.version}"
    if one.value is None or two.value is None:
        return "undefined for one of the two"
    if relative and one.value == 0:
        return "the first is 0, of which nothing is a share"
    level = current_level()
    found = _sampled(spec, one, cases, relative=relative)
    if found is not None:
        return Worse(found.value, found.interval(level), found)
    scale = abs(one.value) if relative else 1.0
    value = float(_loss(spec, two.value) - _loss(spec, one.value)) / scale
    ends = (_share if relative else _unpaired)(spec, cases, level)
    ci = Interval(*ends, level, "of two separate intervals") if ends else None
    return Worse(value, ci, None)


def _sampled(
    spec: MetricSpec, one: Score, cases: tuple[SideCase, SideCase], *, relative: bool = False
) -> Sampled | None:
    """Return the distribution over pairs of sequences; None where the sums are not at hand.

    A run that stopped early has the first of the baseline's sequences: the rest are left aside.
    """
    tables = [_channels(spec, case.table) for case in cases]
    if spec.formula is None or spec.version != one.version or None in tables:
        return None
    sides = {side: table or {} for side, table in zip("ab", tables, strict=True)}
    shared = min(len(values) for table in sides.values() for values in table.values())
    first = {side: {c: v[:shared] for c, v in table.items()} for side, table in sides.items()}
    return sample(_of_losses(spec, spec.formula, relative=relative), side_by_side(first))


def _channels(spec: MetricSpec, table: Table | None) -> Table | None:
    wanted = (*spec.channels, spec.counts)
    if table is None or not set(wanted) <= set(table):
        return None
    return chosen(table, wanted)


def _of_losses(spec: MetricSpec, formula: Formula, *, relative: bool) -> Formula:
    """Return the formula of how much worse side b is than side a, or by which share of a."""

    def worse_by(sums: Table) -> np.ndarray:
        sides = [
            formula({c.partition("/")[2]: v for c, v in sums.items() if c.startswith(f"{side}/")})
            for side in "ab"
        ]
        lost = _loss(spec, sides[1]) - _loss(spec, sides[0])
        return lost / np.abs(sides[0]) if relative else lost

    return worse_by


def _loss(spec: MetricSpec, value: "np.ndarray | float") -> "np.ndarray":
    """Return what is smaller for a better value."""
    values = np.asarray(value)
    if spec.direction is Direction.TARGET:
        return np.abs(values - (spec.target or 0.0))
    return -values if spec.direction is Direction.HIGHER else values


def _unpaired(
    spec: MetricSpec, cases: tuple[SideCase, SideCase], level: float
) -> tuple[float, float] | None:
    """Return the interval of a difference from each side's own interval, as if independent.

    On the same sequences the two err alike, so that this is wider than a paired interval.

    Source:
        MOVER, Zou & Donner 2008, "Construction of confidence limits about effect measures".
    """
    sides = [_losses(spec, case, level) for case in cases]
    if sides[0] is None or sides[1] is None:
        return None
    (a, a_low, a_high), (b, b_low, b_high) = sides[0], sides[1]
    low = b - a - math.hypot(b - b_low, a_high - a)
    high = b - a + math.hypot(b_high - b, a - a_low)
    return low, high


def _share(
    spec: MetricSpec, cases: tuple[SideCase, SideCase], level: float
) -> tuple[float, float] | None:
    """Return the interval of a difference as a share of the first, whose own value is uncertain.

    Both intervals are made at a level at which they hold together (Bonferroni), so that every
    quotient of what lies in them is covered. None where the first may be 0.
    """
    both = 1 - (1 - level) / 2
    lost = _unpaired(spec, cases, both)
    first = _ends(spec, cases[0], both)
    if lost is None or first is None or first[0] <= 0 <= first[1]:
        return None
    of = [abs(end) for end in first]
    quotients = [end / scale for end in lost for scale in of]
    return min(quotients), max(quotients)


def _losses(spec: MetricSpec, case: SideCase, level: float) -> tuple[float, float, float] | None:
    """Return the loss and its interval at a level; None where there is no interval."""
    stored, ends = case.metrics[spec.name], _ends(spec, case, level)
    if stored.value is None or ends is None:
        return None
    loss = float(_loss(spec, stored.value))
    lost = [float(_loss(spec, end)) for end in ends]
    if spec.target is not None and ends[0] <= spec.target <= ends[1]:
        lost.append(0.0)
    return loss, min(*lost, loss), max(*lost, loss)


def _ends(spec: MetricSpec, case: SideCase, level: float) -> tuple[float, float] | None:
    """Return a metric's interval at another level: its halves widened as a normal's are."""
    stored = case.metrics[spec.name]
    if stored.ci is None or stored.value is None:
        return None
    wider = float(ndtri(0.5 + level / 2) / ndtri(0.5 + case.level / 2))
    return (
        stored.value - wider * (stored.value - stored.ci[0]),
        stored.value + wider * (stored.ci[1] - stored.value),
    )


def _outcome(interval: tuple[float, float] | None) -> Outcome:
    if interval is None or not all(map(math.isfinite, interval)):
        return Outcome.UNKNOWN
    if interval[0] > 0:
        return Outcome.WORSE
    return Outcome.BETTER if interval[1] < 0 else Outcome.UNCLEAR
