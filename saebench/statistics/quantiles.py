"""A median and its interval, whatever the distribution."""

import math

import numpy as np
from scipy.stats import quantile_test

from saebench.results import Interval
from saebench.statistics.bootstrap import Estimate
from saebench.statistics.level import current_level


def median(values: np.ndarray, *, level: float | None = None) -> Estimate:
    """Return the median of independent values, with its interval between two of them.

    The number of values below the true median is binomial: the interval's ends are the values
    whose ranks it lies between with at least that probability. There is no interval where so few
    values cannot give one.

    Raises:
        ValueError: for no values at all.

    Source:
        Conover 1999, "Practical Nonparametric Statistics", 3.2; scipy.stats.quantile_test.

    Example:
        >>> median(np.arange(101.0)).value
        50.0
    """
    if len(values) == 0:
        raise ValueError("the median of nothing is undefined")
    value = float(np.median(values))
    level = level or current_level()
    ci = quantile_test(values, p=0.5).confidence_interval(confidence_level=level)
    if not (math.isfinite(ci.low) and math.isfinite(ci.high)):
        return Estimate(value, None)
    low, high = min(float(ci.low), value), max(float(ci.high), value)
    return Estimate(value, Interval(low, high, level, f"order statistics of {len(values)} tokens"))
