"""How much worse one SAE is than another in one metric, with an interval."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy.special import ndtri

from saebench.properties.base import MetricSpec
from saebench.results import Basis, Direction, Interval
from saebench.statistics.bootstrap import LEVEL, Formula, Table, estimate
from saebench.store.boards import Score


class Outcome(StrEnum):
    """What the interval of a difference shows."""

    WORSE = "worse"
    UNCLEAR = "unclear"
    BETTER = "better"
    UNKNOWN = "no interval"


@dataclass(frozen=True)
class SideCase:
    """One case of one SAE: its metrics, and the per-sequence sums where they are at hand."""

    basis: Basis | None
    metrics: Mapping[str, Score]
    table: Table | None = None


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
    paired = _paired(spec, one, cases, level)
    interval = (paired.low, paired.high) if paired else _unpaired(spec, one, two, level)
    lost = _loss(spec, two.value) - _loss(spec, one.value)
    return Difference(
        case, spec.name, spec.unit, spec.direction, one.value, two.value, float(lost),
        interval, paired is not None, _outcome(interval),
    )  # fmt: skip


def how_much_worse(
    spec: MetricSpec, cases: tuple[SideCase, SideCase], *, relative: bool
) -> tuple[float, Interval | None, bool] | str:
    """Return how much worse the second is, its interval, and whether it is paired.

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
    scale = abs(one.value) if relative else 1.0
    value = float(_loss(spec, two.value) - _loss(spec, one.value)) / scale
    paired = _paired(spec, one, cases, LEVEL, relative=relative)
    if paired is not None:
        return value, paired, True
    apart = _unpaired(spec, one, two, LEVEL)
    if apart is None:
        return value, None, False
    low, high = (end / scale for end in apart)
    return value, Interval(low, high, LEVEL, "of two separate intervals"), False


def _paired(
    spec: MetricSpec,
    one: Score,
    cases: tuple[SideCase, SideCase],
    level: float,
    *,
    relative: bool = False,
) -> Interval | None:
    """Return the interval over pairs of sequences; None where the sums are not at hand."""
    tables = [_channels(spec, case.table) for case in cases]
    if spec.formula is None or spec.version != one.version or None in tables:
        return None
    together: dict[str, np.ndarray] = {}
    for side, table in zip("ab", tables, strict=True):
        together |= {f"{side}/{channel}": values for channel, values in (table or {}).items()}
    if len({len(values) for values in together.values()}) != 1:
        return None
    formula = _of_losses(spec, spec.formula, relative=relative)
    return estimate(formula, together, level=level).interval


def _channels(spec: MetricSpec, table: Table | None) -> Table | None:
    wanted = (*spec.channels, spec.counts)
    if table is None or not set(wanted) <= set(table):
        return None
    return {channel: table[channel] for channel in wanted}


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


def _unpaired(spec: MetricSpec, one: Score, two: Score, level: float) -> tuple[float, float] | None:
    """Return the interval of a difference from each side's own interval, as if independent.

    On the same sequences the two err alike, so that this is wider than a paired interval.

    Source:
        MOVER, Zou & Donner 2008, "Construction of confidence limits about effect measures".
    """
    if one.ci is None or two.ci is None or one.value is None or two.value is None:
        return None
    wider = ndtri(0.5 + level / 2) / ndtri(0.5 + LEVEL / 2)
    (a, a_low, a_high), (b, b_low, b_high) = (_losses(spec, side, wider) for side in (one, two))
    low = b - a - math.hypot(b - b_low, a_high - a)
    high = b - a + math.hypot(b_high - b, a - a_low)
    return low, high


def _losses(spec: MetricSpec, stored: Score, wider: float) -> tuple[float, float, float]:
    """Return the loss and its interval, whose halves are widened."""
    assert stored.value is not None
    assert stored.ci is not None
    loss = float(_loss(spec, stored.value))
    ends = [float(_loss(spec, end)) for end in stored.ci]
    if spec.target is not None and stored.ci[0] <= spec.target <= stored.ci[1]:
        ends.append(0.0)
    return loss, loss - wider * (loss - min(ends)), loss + wider * (max(ends) - loss)


def _outcome(interval: tuple[float, float] | None) -> Outcome:
    if interval is None or not all(map(math.isfinite, interval)):
        return Outcome.UNKNOWN
    if interval[0] > 0:
        return Outcome.WORSE
    return Outcome.BETTER if interval[1] < 0 else Outcome.UNCLEAR
