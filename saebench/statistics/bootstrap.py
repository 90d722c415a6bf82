"""The studentised bootstrap over sequences: intervals and p-values of formulas of sums."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import combinations_with_replacement

import numpy as np
from scipy.special import stdtr, stdtrit

from saebench.records.metric import CLUSTER, Interval
from saebench.statistics.clusters import chosen, independent, of_clusters
from saebench.statistics.levels import LEVEL, current_level
from saebench.statistics.linear import Formula, Table, gradient, steps_of

DRAWS = 10_000
FEWER_DRAWS = 2_000
MANY_SEQUENCES = 4_096
SEED = 20_240_331  # of the resampling alone; every interval uses the same resamples
AT_ONCE = 1 << 17  # sequences drawn at once: their counts fit into the processor's cache
LARGEST_CACHED = 1 << 26  # bytes of counts, one byte each: 2,000 resamples of 33,000


def resampled_sums(columns: np.ndarray) -> np.ndarray:
    """Return the sums of each resample: counts times per-sequence values, for all columns at once.

    Args:
        columns: float64 ``[sequences, columns]``.

    Returns:
        float64 ``[columns, draws]``.

    Example:
        >>> resampled_sums(np.ones((8, 2))).shape
        (2, 10000)
    """
    n = len(columns)
    sums = np.empty((columns.shape[1], _draws(n)))
    start = 0
    for counts in _count_blocks(n):
        # A column's sums are contiguous, as they are read.
        sums[:, start : start + len(counts)] = (counts.astype(np.float64) @ columns).T
        start += len(counts)
    return sums


def _draws(n: int) -> int:
    return DRAWS if n <= MANY_SEQUENCES else FEWER_DRAWS


def _count_blocks(n: int) -> Iterable[np.ndarray]:
    return _cached_blocks(n) if n * _draws(n) <= LARGEST_CACHED else _drawn_blocks(n)


@lru_cache(maxsize=2)
def _cached_blocks(n: int) -> list[np.ndarray]:
    return list(_drawn_blocks(n))


def _drawn_blocks(n: int) -> Iterator[np.ndarray]:
    """Give the number of times that each resample has each sequence, in blocks of resamples."""
    rng = np.random.default_rng(SEED)
    draws = _draws(n)
    rows = min(draws, max(1, AT_ONCE // n))
    offsets = n * np.arange(rows)[:, None]
    for start in range(0, draws, rows):
        size = min(rows, draws - start)
        picked = rng.integers(0, n, size=(size, n), dtype=np.int32) + offsets[:size]
        counts = np.bincount(picked.ravel(), minlength=size * n).reshape(size, n)
        yield counts.astype(np.min_scalar_type(int(counts.max())))


FEWEST = 8  # sequences; with fewer, too many resamples have one sequence only
ROUNDING = 1e-14  # relative to the channels' own variances: the rest where they cancel
DEGENERATE = 1e-3  # share of resamples without spread or value, above which none is used
RESOLVED = 10  # resamples that have to be beyond a quantile for it to be taken from them


@dataclass(frozen=True)
class Estimate:
    """A value and its interval; no interval where there are fewer than two sequences."""

    value: float
    interval: Interval | None


@dataclass(frozen=True)
class Wanted:
    """A formula of sums, and the channels that it reads."""

    formula: Formula
    channels: tuple[str, ...]


@dataclass(frozen=True)
class Sampled:
    """The sampling distribution of a formula over sequences.

    Attributes:
        value: on the data.
        error: its standard error by the delta method; NaN with one sequence.
        sequences: their number; sequences that repeat each other count as one.
        pivots: sorted ``(value* - value) / error*`` of the resamples; None where too many of
            them have no spread, and Student's t is used instead.
        repeats: the number of further sequences, which repeat one of these.
    """

    value: float
    error: float
    sequences: int
    pivots: np.ndarray | None
    repeats: int = 0

    def interval(self, level: float = LEVEL) -> Interval | None:
        """Return the interval; None with one sequence, or where the value is no number."""
        if self.sequences < 2 or not np.isfinite([self.value, self.error]).all():
            return None
        upper, lower = self._quantiles(np.array([0.5 + level / 2, 0.5 - level / 2]))
        low, high = (self.value - q * self.error for q in (upper, lower))
        return Interval(float(low), float(high), level, self.method)

    def p_below(self, limit: float) -> float:
        """Return the one-sided p of "the true value is the limit or more": small shows below."""
        return self._tail(limit, sign=1.0)

    def p_above(self, limit: float) -> float:
        """Return the one-sided p of "the true value is the limit or less": small shows above."""
        return self._tail(limit, sign=-1.0)

    @property
    def method(self) -> str:
        """The method of the interval, in words."""
        over = f"over {self.sequences} sequences"
        if self.repeats:
            every = self.sequences + self.repeats
            over = f"over the {self.sequences} that differ of {every} sequences"
        if self.error == 0:
            return f"no spread {over}"
        if self.pivots is None:
            return f"delta method, Student's t {over}"
        return f"studentised bootstrap, no nearer than Student's t, {over}"

    def _quantiles(self, shares: np.ndarray) -> np.ndarray:
        plain = stdtrit(self.sequences - 1, shares)
        if self.pivots is None:
            return plain
        inner = np.clip(shares, self._least, 1 - self._least)
        drawn = np.quantile(self.pivots, inner)
        beyond = inner != shares
        drawn[beyond] *= plain[beyond] / stdtrit(self.sequences - 1, inner[beyond])
        return np.where(shares > 0.5, np.maximum(drawn, plain), np.minimum(drawn, plain))

    @property
    def _least(self) -> float:
        """The smallest share whose quantile is taken from the resamples.

        Beyond it their tail is that of Student's t, stretched to begin where they end.
        """
        assert self.pivots is not None
        return RESOLVED / self.pivots.size

    def _tail(self, limit: float, *, sign: float) -> float:
        if self.sequences < 2 or not np.isfinite([self.value, self.error]).all():
            return float("nan")
        if self.error == 0:
            return 0.0 if sign * (limit - self.value) > 0 else 1.0
        distance = sign * (self.value - limit) / self.error
        plain = float(stdtr(self.sequences - 1, distance))
        if self.pivots is None:
            return plain
        turned = sign * self.pivots
        beyond, edge = int(np.count_nonzero(turned <= distance)), np.quantile(turned, self._least)
        if beyond >= RESOLVED or edge >= 0:
            return max(plain, (1 + beyond) / (1 + self.pivots.size))
        stretched = stdtrit(self.sequences - 1, self._least) / edge
        return max(plain, float(stdtr(self.sequences - 1, distance * stretched)))


def estimate(formula: Formula, table: Table, *, level: float | None = None) -> Estimate:
    """Evaluate a formula of sums, with its studentised bootstrap interval over sequences.

    In each resample the formula's distance from its value on the data is divided by that
    resample's own standard error (the delta method's). On skewed data such as KL this reaches
    its coverage where percentiles and BCa fall short. On symmetric heavy tails, such as those of
    paired differences, its quantiles are too close, so that no end is closer than that of Student's
    t. Where the resamples have no spread to divide by, Student's t is used alone. The interval's
    method says which. docs/statistics.md has the measured coverage.

    Args:
        formula: takes sums by channel, of any shape, and returns an array of that shape; a
            ratio of sums therefore resamples as a ratio of sums.
        table: per-sequence sums by channel, all of one length.
        level: of the interval; the current one where None.

    Source:
        Efron & Tibshirani 1993, "An Introduction to the Bootstrap", 12.5; Davison & Hinkley
        1997, "Bootstrap Methods and their Application", 5.2; docs/metrics.md, "Uncertainty".

    Example:
        >>> table = {"kl": np.array([1.0, 2.0, 3.0]), "n": np.array([10.0, 10.0, 10.0])}
        >>> round(estimate(lambda s: s["kl"] / s["n"], table).value, 6)
        0.2
    """
    sampled = sample(formula, table)
    return Estimate(sampled.value, sampled.interval(level or current_level()))


def by_percentiles(formula: Formula, table: Table, *, level: float | None = None) -> Estimate:
    """Evaluate a formula of sums that has corners, with its percentile interval over sequences.

    Where a formula interpolates between points, its slope jumps at each of them, and a standard
    error by the delta method is wrong nearby: there the resamples' own quantiles are used.

    Args:
        formula: as for :func:`estimate`.
        table: likewise.
        level: of the interval; the current one where None.

    Source:
        Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.

    Example:
        >>> table = {"kl": np.array([1.0, 2.0, 3.0]), "n": np.array([10.0, 10.0, 10.0])}
        >>> found = by_percentiles(lambda s: s["kl"] / s["n"], table).interval
        >>> 0.1 <= found.low < 0.2 < found.high <= 0.3
        True
    """
    own = of_clusters(table)
    columns = {c: np.asarray(v, dtype=np.float64) for c, v in own.items() if c != CLUSTER}
    with np.errstate(all="ignore"):
        value = float(formula({c: v.sum(keepdims=True) for c, v in columns.items()})[0])
        drawn = resampled_sums(np.stack(list(columns.values()), axis=1))
        values = formula(dict(zip(columns, drawn, strict=True)))
    n = len(next(iter(columns.values())))
    if n < 2 or not (np.isfinite(value) and np.isfinite(values).all()):
        return Estimate(value, None)
    wanted = level or current_level()
    low, high = np.quantile(values, [0.5 - wanted / 2, 0.5 + wanted / 2])
    # The ends never exclude the value that they are about.
    ends = (min(float(low), value), max(float(high), value))
    return Estimate(value, Interval(*ends, wanted, f"percentile bootstrap over {n} sequences"))


def sample(formula: Formula, table: Table) -> Sampled:
    """Return a formula's sampling distribution, which gives intervals and p-values."""
    channels = tuple(channel for channel in table if channel != CLUSTER)
    return sample_all({"": Wanted(formula, channels)}, table)[""]


def sample_all(wanted: Mapping[str, Wanted], table: Table) -> dict[str, Sampled]:
    """Return the sampling distributions of several formulas of the same sequences and resamples.

    Sequences of one cluster are drawn together, as one.

    Args:
        wanted: the formulas, each with the channels that it reads.
        table: per-sequence sums by channel, all of one length, with CLUSTER where any repeat.

    Raises:
        ValueError: for channels of several lengths.
    """
    used = list(dict.fromkeys(c for each in wanted.values() for c in each.channels))
    sums = chosen(table, used)
    if len({len(values) for values in sums.values()}) > 1:
        raise ValueError(f"channels of several lengths: { {c: len(v) for c, v in sums.items()} }")
    own, repeated = of_clusters(sums), len(sums[used[0]]) - independent(sums)
    pairs = dict.fromkeys(
        pair for w in wanted.values() for pair in combinations_with_replacement(w.channels, 2)
    )
    columns = {c: np.asarray(own[c], dtype=np.float64) for c in used}
    # A formula may divide by zero, a sum be NaN: the results are checked instead of warned about.
    with np.errstate(all="ignore"):
        moments = _Moments(columns, tuple(pairs))
        sampled = {name: _sampled(each, moments) for name, each in wanted.items()}
    return {name: replace(each, repeats=repeated) for name, each in sampled.items()}


def _sampled(wanted: Wanted, moments: "_Moments") -> Sampled:
    on_data = moments.of_data(wanted.channels)
    (value,), (error,) = _studied(wanted, on_data, moments)
    n = moments.sequences
    if n < FEWEST or not np.isfinite(value) or not error > 0:
        return Sampled(float(value), float(error if n > 1 else np.nan), n, None)
    values, errors = _studied(wanted, moments.of_resamples(wanted.channels), moments)
    pivots = (values - value) / errors
    usable = np.isfinite(pivots) & (errors > 1e-6 * error)
    if np.mean(~usable) > DEGENERATE:
        return Sampled(float(value), float(error), n, None)
    return Sampled(float(value), float(error), n, np.sort(pivots[usable]))


def _studied(
    wanted: Wanted, drawn: "tuple[np.ndarray, np.ndarray]", moments: "_Moments"
) -> tuple[np.ndarray, np.ndarray]:
    """Return a formula's value and standard error in each draw.

    Args:
        wanted: the formula.
        drawn: the channels' sums ``[channels, draws]``, and their products' ``[pairs, draws]``.
        moments: of the same data.
    """
    sums, squares = drawn
    values = np.asarray(wanted.formula(dict(zip(wanted.channels, sums, strict=True))))
    slopes = gradient(wanted.formula, wanted.channels, sums, steps=moments.steps(wanted.channels))
    n, draws = moments.sequences, sums.shape[1]
    variance, reach = np.zeros(draws), np.zeros(draws)
    for (i, j), square in zip(_places(len(wanted.channels)), squares, strict=True):
        part = slopes[i] * slopes[j] * square
        variance += part if i == j else 2 * part
        reach += part if i == j else 0
    # Where two measurements are equal their channels cancel, and only rounding remains.
    variance[variance < ROUNDING * reach] = 0
    return np.broadcast_to(values, draws), np.sqrt(variance * n / (n - 1))


def _places(channels: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(channels) for j in range(i, channels)]


class _Moments:
    """Sums and centred sums of products of the channels, on the data and in each resample."""

    def __init__(self, table: Table, pairs: Sequence[tuple[str, str]]) -> None:
        self._columns = np.stack(list(table.values()), axis=1)
        self._pairs = pairs
        self.sequences = len(self._columns)
        self._means = self._columns.mean(axis=0)
        self._at = {c: i for i, c in enumerate(table)}
        self._pair_at = {pair: i for i, pair in enumerate(pairs, start=len(table))}
        self._steps = steps_of(self._columns)

    def steps(self, channels: Sequence[str]) -> np.ndarray:
        """Return the step of each channel's sum for a formula's slope."""
        return self._steps[[self._at[c] for c in channels]]

    def of_data(self, channels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the sums and the centred products' sums on the data, as one draw."""
        _, squares = self._chosen(self._centred.sum(axis=0)[:, None], channels)
        totals = [self._columns[:, self._at[c]].sum() for c in channels]
        return np.array(totals)[:, None], squares

    def of_resamples(self, channels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the same for each resample."""
        return self._chosen(self._resampled, channels)

    @cached_property
    def _centred(self) -> np.ndarray:
        """The channels and products less their means, since large means would swamp the spread."""
        centred = self._columns - self._means
        products = [centred[:, self._at[a]] * centred[:, self._at[b]] for a, b in self._pairs]
        return np.concatenate([centred, np.stack(products, axis=1)], axis=1)

    @cached_property
    def _resampled(self) -> np.ndarray:
        return resampled_sums(self._centred)

    def _chosen(self, drawn: np.ndarray, channels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        n, at = self.sequences, [self._at[c] for c in channels]
        moved = drawn[at]
        places = _places(len(channels))
        squares = drawn[[self._pair_at[channels[i], channels[j]] for i, j in places]]
        one, two = ([side[k] for side in places] for k in (0, 1))
        means = self._means[at][:, None]
        return moved + n * means, squares - moved[one] * moved[two] / n
