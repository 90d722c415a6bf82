"""A metric with its interval, and what a gate on it reads where it is undefined."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from saebench.records.verdict import Verdict

LEVEL = 0.95  # of confidence intervals, by default
CLUSTER = "cluster"  # the channel of per-sequence sums with the cluster of each sequence's repeats


class Direction(StrEnum):
    """Which way a metric is better."""

    LOWER = "lower"
    HIGHER = "higher"
    TARGET = "target"


@dataclass(frozen=True)
class Interval:
    """A confidence interval, its level, and the method in words.

    Example:
        >>> interval = Interval(0.25, 0.75, 0.95, "bootstrap")
        >>> interval.text("+.1f"), 0.5 in interval
        ('[+0.2, +0.8]', True)
    """

    low: float
    high: float
    level: float
    method: str

    def __contains__(self, value: float) -> bool:
        """True where a value lies within, the ends included."""
        return self.low <= value <= self.high

    @property
    def is_finite(self) -> bool:
        """True where both ends are numbers."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def scaled(self, factor: float) -> "Interval":
        """Return the interval of the number times a positive factor."""
        return Interval(self.low * factor, self.high * factor, self.level, self.method)

    def text(self, form: str = ".3g") -> str:
        """Return the interval for people, each end in a number format."""
        return f"[{self.low:{form}}, {self.high:{form}}]"


class AsEnds:
    """Marks an interval that a JSON file holds as its two ends; its level is then 95%."""

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> Any:
        """Return how pydantic reads and writes the two ends; it alone calls this."""
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(
            lambda ends: Interval(ends[0], ends[1], LEVEL, ""),
            core_schema.tuple_schema([core_schema.float_schema(), core_schema.float_schema()]),
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda interval: [interval.low, interval.high]
            ),
        )


@dataclass(frozen=True)
class SampleSize:
    """How much data a metric was computed from."""

    sequences: int
    tokens: int


@dataclass(frozen=True)
class Fallback:
    """The metric that a gate reads where the gated one is undefined.

    Attributes:
        metric: its name.
        scale: a limit of L on the gated metric is a limit of (L - 1)·scale on this one; where the
            scale is negative, an upper limit becomes a lower one, and the reverse.
    """

    metric: str
    scale: float

    def limits(self, low: float, high: float) -> tuple[float, float]:
        """Return the limits on this metric that stand for limits on the gated one.

        Example:
            >>> Fallback("fidelity.ce_increase", -0.5).limits(0.75, float("inf"))
            (-inf, 0.125)
        """
        ends = sorted((limit - 1) * self.scale for limit in (low, high))
        return ends[0], ends[1]


@dataclass(frozen=True)
class Negligible:
    """The metric that shows that an effect is too small for the gated metric to decide.

    A ratio of two tiny quantities says nothing. The gate then passes, and says why.

    Attributes:
        metric: its name.
        limit: at most this value is negligible.
    """

    metric: str
    limit: float


class MetricValue(Protocol):
    """What a comparison reads of a metric: of a run, of a baseline, or on a leaderboard."""

    @property
    def version(self) -> int:
        """Version of the metric's definition."""
        ...

    @property
    def value(self) -> float | None:
        """The value; None where it is undefined."""
        ...

    @property
    def ci(self) -> Interval | None:
        """Its interval; None where there is none."""
        ...


@dataclass(frozen=True)
class Metric:
    """One number with its unit, direction, version and uncertainty.

    ``value`` is None where the metric is undefined on this data; ``note`` then gives the reason.

    Attributes:
        fallback: the metric that a gate reads instead of an undefined one.
        if_undefined: the verdict of a gate on an undefined metric without a fallback: FAIL where
            the reason is a fault of the SAE.
        negligible: what shows that the effect is too small to be decided by this metric.
        decides: False where the metric is reported, and a gate on it is a secondary one.
    """

    name: str
    version: int
    value: float | None
    unit: str
    direction: Direction
    n: SampleSize
    ci: Interval | None = None
    target: float | None = None
    note: str | None = None
    fallback: Fallback | None = None
    if_undefined: Verdict = Verdict.ERROR
    negligible: Negligible | None = None
    decides: bool = True
