"""Medians and rank correlations, with their intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import quantile_test

from saebench.records.metric import Interval
from saebench.statistics.bootstrap import Estimate, estimate
from saebench.statistics.levels import current_level


def median(values: np.ndarray, *, level: float | None = None) -> Estimate:
    """Return the median of independent values, with its interval between two of them.

    The number of values below the true median is binomial: the interval's ends are the two values
    between whose ranks it is with at least the probability of the level. Too few values have no
    interval.

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


@dataclass(frozen=True)
class RankCorrelation:
    """A rank correlation of tokens, and the influence of each token on it.

    Attributes:
        value: Spearman's ρ; NaN where one side is constant.
        influence: the derivative of ρ in each token's weight; its sum is zero.
    """

    value: float
    influence: np.ndarray


def rank_correlations(
    x: np.ndarray, columns: Mapping[str, np.ndarray]
) -> dict[str, RankCorrelation]:
    """Return Spearman's ρ of one column with each of the others, ties at their middle rank.

    With u = P(X < x) + ½P(X = x), v likewise for y, and h(x, x') = 1(x < x') + ½1(x = x'), ρ is
    the correlation of u and v. Its derivative in the distribution has the direct term
    (u - ½)(v - ½) and what the ranks themselves change by: E[h(x, X)V] and E[U h(y, Y)].

    Args:
        x: one value for each token.
        columns: the others, by name.

    Source:
        Croux and Dehon 2010, "Influence functions of the Spearman and Kendall correlation
        measures", extended to ties by the middle distribution function.

    Example:
        >>> by_name = rank_correlations(np.array([1.0, 2.0, 3.0]), {"y": np.array([1.0, 9, 27])})
        >>> round(by_name["y"].value, 9)
        1.0
    """
    ranks = _Ranks(x)
    return {name: _correlation(ranks, _Ranks(y)) for name, y in columns.items()}


def _correlation(u: "_Ranks", v: "_Ranks") -> RankCorrelation:
    spread = np.sqrt(u.variance * v.variance)
    if spread == 0:
        return RankCorrelation(float("nan"), np.zeros(len(u.rank)))
    product = float(np.mean(u.rank * v.rank))
    value = (product - 0.25) / spread
    of_product = u.rank * v.rank + u.above(v.rank) + v.above(u.rank) - 3 * product
    of_spread = u.of_variance() / u.variance + v.of_variance() / v.variance
    return RankCorrelation(float(value), of_product / spread - value / 2 * of_spread)


def mean_correlation(several: Sequence[RankCorrelation]) -> RankCorrelation:
    """Return the mean of several correlations of the same tokens."""
    return RankCorrelation(
        float(np.mean([each.value for each in several])),
        np.mean([each.influence for each in several], axis=0),
    )


def over_sequences(correlation: RankCorrelation, sequence: np.ndarray) -> Estimate:
    """Return a correlation with its interval: the bootstrap of its linear part over sequences.

    Ranking every resample anew would take hours on a release's tokens and gives the same
    interval up to terms of the order of one over the number of sequences.

    Args:
        correlation: with the tokens' influences.
        sequence: the number of each token's sequence.

    Source:
        docs/metrics.md, "Uncertainty": the delta method, for the ranks alone.
    """
    index = np.unique(sequence, return_inverse=True)[1]
    table = {"influence": np.bincount(index, correlation.influence), "n": np.bincount(index)}
    linear = estimate(lambda sums: correlation.value + sums["influence"] / sums["n"], table)
    if linear.interval is None:
        return Estimate(correlation.value, None)
    low, high = np.clip([linear.interval.low, linear.interval.high], -1, 1)
    method = f"{linear.interval.method}, ranks linearised"
    interval = Interval(float(low), float(high), linear.interval.level, method)
    return Estimate(correlation.value, interval)


class _Ranks:
    """A column's middle ranks as shares of the tokens, and sums over the tokens above each."""

    def __init__(self, column: np.ndarray) -> None:
        _, self._kind, counts = np.unique(column, return_inverse=True, return_counts=True)
        self._n = len(column)
        self.rank = ((counts.cumsum() - counts / 2) / self._n)[self._kind]
        self.variance = float(np.mean((self.rank - 0.5) ** 2))

    def above(self, weights: np.ndarray) -> np.ndarray:
        """Return E[h(x, X)·W] at each token's x."""
        by_kind = np.bincount(self._kind, weights)
        at_most = by_kind.cumsum()
        return ((at_most[-1] - at_most + by_kind / 2) / self._n)[self._kind]

    def of_variance(self) -> np.ndarray:
        """Return the variance's derivative: zero where there are no ties."""
        square = np.mean(self.rank**2)
        return self.rank**2 - square + 2 * (self.above(self.rank) - square)


def spread_over(values: np.ndarray, among: np.ndarray, *, quantiles: Sequence[float]) -> list[int]:
    """Return the indices of the values' quantiles, each once, the smallest value first.

    Args:
        values: numbers.
        among: a mask of the indices to choose from.
        quantiles: from 0 to 1, ascending.

    Example:
        >>> spread_over(np.array([3.0, 9.0, 1.0]), np.array([True, True, True]), quantiles=(0, 1))
        [2, 1]
    """
    chosen = np.flatnonzero(among)
    if not chosen.size:
        return []
    order = chosen[np.argsort(values[chosen], kind="stable")]
    places = [round(q * (len(order) - 1)) for q in quantiles]
    return [int(order[place]) for place in dict.fromkeys(places)]
