"""How much worse one SAE is than another in one metric, with an interval."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from scipy.special import ndtri

from saebench.properties.base import MetricSpec
from saebench.records.case_result import Basis
from saebench.records.metric import Direction, Interval, MetricValue
from saebench.statistics.bootstrap import Sampled, Table
from saebench.statistics.clusters import chosen
from saebench.statistics.levels import current_level
from saebench.statistics.paired import Combine, sample_pair


class Outcome(StrEnum):
    """What the interval of a difference shows."""

    WORSE = "worse"
    UNCLEAR = "unclear"
    BETTER = "better"
    UNKNOWN = "no interval"


@dataclass(frozen=True)
class SideCase:
    """One case of one SAE, from a run or a baseline.

    Attributes:
        basis: its model, tokens and random seed; None where an old file does not say.
        metrics: its metrics by name.
        table: per-sequence sums by channel; None where they are not available.
        noise: the re-measurement noise of each metric, as far as that was measured.
        order: the order in which its documents were taken; None where the file does not say.
    """

    basis: Basis | None
    metrics: Mapping[str, MetricValue]
    table: Table | None = None
    noise: Mapping[str, float] = field(default_factory=dict)
    order: str | None = None


Pair = tuple[SideCase, SideCase]


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
    ci: Interval | None
    paired: bool
    outcome: Outcome


def difference(spec: MetricSpec, cases: Pair, *, case: str, level: float) -> Difference | str:
    """Return one metric's difference, or the reason why there is none.

    Args:
        spec: the metric's definition.
        cases: of the two SAEs, on equal tokens; both report the metric.
        case: the case's name.
        level: of the interval.
    """
    one, two = (each.metrics[spec.name] for each in cases)
    values = _values(one, two)
    if isinstance(values, str):
        return values if one.version == two.version else f"{values}; measure the older again"
    sampled = _sampled(spec, one, cases)
    paired = sampled.interval(level) if sampled is not None else None
    interval = paired or _unpaired(spec, cases, level)
    worse_by = float(_loss(spec, values[1]) - _loss(spec, values[0]))
    return Difference(
        case, spec.name, spec.unit, spec.direction, *values, worse_by,
        interval, paired is not None, _outcome(interval),
    )  # fmt: skip


@dataclass(frozen=True)
class Worse:
    """How much worse the second of two is, in the metric's unit or as a share of the first.

    Attributes:
        value: positive where it is worse.
        ci: its interval; None where there is none.
        sampled: its sampling distribution over pairs of sequences; None where it is not paired.
    """

    value: float
    ci: Interval | None
    sampled: Sampled | None

    @property
    def paired(self) -> bool:
        """True where both sides' sums were available."""
        return self.sampled is not None


def how_much_worse(spec: MetricSpec, cases: Pair, *, relative: bool) -> Worse | str:
    """Return how much worse the second is, with its interval at the current level.

    Args:
        spec: the metric's definition.
        cases: of the two SAEs, on equal tokens; both report the metric.
        relative: as a share of the first's value.

    Returns:
        The reason why there is none, where the two do not compare.
    """
    one, two = (each.metrics[spec.name] for each in cases)
    values = _values(one, two)
    if isinstance(values, str):
        return values
    if relative and values[0] == 0:
        return "the first is 0, so that there is no share of it"
    sampled, level = _sampled(spec, one, cases, relative=relative), current_level()
    if sampled is not None:
        return Worse(sampled.value, sampled.interval(level), sampled)
    scale = abs(values[0]) if relative else 1.0
    worse_by = float(_loss(spec, values[1]) - _loss(spec, values[0])) / scale
    return Worse(worse_by, (_share if relative else _unpaired)(spec, cases, level), None)


def _values(one: MetricValue, two: MetricValue) -> tuple[float, float] | str:
    """Return the two values, or the reason why they do not compare."""
    if one.version != two.version:
        return f"measured as versions {one.version} and {two.version}"
    if one.value is None or two.value is None:
        return "undefined for one of the two"
    return one.value, two.value


def _sampled(
    spec: MetricSpec, one: MetricValue, cases: Pair, *, relative: bool = False
) -> Sampled | None:
    """Return the distribution over pairs of sequences; None where the sums are not available.

    A run that stopped early has the first of the baseline's sequences: the rest are left out.
    """
    tables = [_channels(spec, case.table) for case in cases]
    if spec.formula is None or spec.version != one.version or None in tables:
        return None
    both = [table or {} for table in tables]
    shared = min(len(values) for table in both for values in table.values())
    first, second = ({c: values[:shared] for c, values in table.items()} for table in both)
    return sample_pair(spec.formula, first, second, combine=_worse_by(spec, relative=relative))


def _channels(spec: MetricSpec, table: Table | None) -> Table | None:
    wanted = (*spec.channels, spec.counts)
    if table is None or not set(wanted) <= set(table):
        return None
    return chosen(table, wanted)


def _worse_by(spec: MetricSpec, *, relative: bool) -> Combine:
    """Return the function of both values: how much worse the second is, or by which share."""

    def worse_by(one: np.ndarray, two: np.ndarray) -> np.ndarray:
        lost = _loss(spec, two) - _loss(spec, one)
        return lost / np.abs(one) if relative else lost

    return worse_by


def _loss(spec: MetricSpec, value: np.ndarray | float) -> np.ndarray:
    """Return values turned so that smaller is better."""
    values = np.asarray(value)
    if spec.direction is Direction.TARGET:
        return np.abs(values - (spec.target or 0.0))
    return -values if spec.direction is Direction.HIGHER else values


def _unpaired(spec: MetricSpec, cases: Pair, level: float) -> Interval | None:
    """Return the interval of a difference from each side's own interval, as if independent.

    On the same sequences the two are correlated, so that this is wider than a paired interval.

    Source:
        MOVER, Zou & Donner 2008, "Construction of confidence limits about effect measures".
    """
    sides = [_losses(spec, case, level) for case in cases]
    if sides[0] is None or sides[1] is None:
        return None
    (a, a_low, a_high), (b, b_low, b_high) = sides[0], sides[1]
    low = b - a - math.hypot(b - b_low, a_high - a)
    high = b - a + math.hypot(b_high - b, a - a_low)
    return Interval(low, high, level, UNPAIRED)


UNPAIRED = "of two separate intervals"


def _share(spec: MetricSpec, cases: Pair, level: float) -> Interval | None:
    """Return the interval of a difference as a share of the first, whose own value is uncertain.

    Both intervals have a level at which they hold jointly (Bonferroni), so that every quotient of
    what lies in them is covered. None where the first may be 0.
    """
    both = 1 - (1 - level) / 2
    lost = _unpaired(spec, cases, both)
    first = _at_level(spec, cases[0], both)
    if lost is None or first is None or 0 in first:
        return None
    scales = [abs(end) for end in (first.low, first.high)]
    quotients = [end / scale for end in (lost.low, lost.high) for scale in scales]
    return Interval(min(quotients), max(quotients), level, UNPAIRED)


def _losses(spec: MetricSpec, case: SideCase, level: float) -> tuple[float, float, float] | None:
    """Return the loss and its interval at a level; None where there is no interval."""
    value, interval = case.metrics[spec.name].value, _at_level(spec, case, level)
    if value is None or interval is None:
        return None
    loss = float(_loss(spec, value))
    lost = [float(_loss(spec, end)) for end in (interval.low, interval.high)]
    if spec.target is not None and spec.target in interval:
        lost.append(0.0)
    return loss, min(*lost, loss), max(*lost, loss)


def _at_level(spec: MetricSpec, case: SideCase, level: float) -> Interval | None:
    """Return a metric's interval at another level: its halves widened as a normal's are."""
    metric = case.metrics[spec.name]
    if metric.ci is None or metric.value is None:
        return None
    wider = float(ndtri(0.5 + level / 2) / ndtri(0.5 + metric.ci.level / 2))
    return Interval(
        metric.value - wider * (metric.value - metric.ci.low),
        metric.value + wider * (metric.ci.high - metric.value),
        level,
        metric.ci.method,
    )


def _outcome(interval: Interval | None) -> Outcome:
    if interval is None or not interval.is_finite:
        return Outcome.UNKNOWN
    if interval.low > 0:
        return Outcome.WORSE
    return Outcome.BETTER if interval.high < 0 else Outcome.UNCLEAR
