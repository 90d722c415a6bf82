"""The worst of several strata: their ratios to the mean, or means, with simultaneous intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtrit

from saebench.records.metric import CLUSTER, Interval
from saebench.statistics.bootstrap import Estimate, Table, Wanted, sample_all
from saebench.statistics.clusters import independent, rows_by_text
from saebench.statistics.levels import current_level
from saebench.statistics.linear import Formula

SCREENED = 8  # strata whose intervals are bootstrapped, those that the delta method finds worst
SUM, COUNT = "sum", "count"


@dataclass(frozen=True)
class Stratum:
    """Some of the tokens, with their mean and its ratio to the mean of all tokens.

    Attributes:
        name: in words.
        mean: over the stratum's tokens.
        count: number of its tokens.
        ratio: mean / max(mean of all tokens, floor).
        low: the lower end of the ratio's simultaneous interval by the delta method.
    """

    name: str
    mean: float
    count: int
    ratio: float
    low: float


@dataclass(frozen=True)
class Worst:
    """The stratum that is surest to be far above the mean.

    Attributes:
        stratum: the stratum.
        estimate: its ratio, with the interval that holds for all strata at once.
        strata: all strata, in their order.
    """

    stratum: Stratum
    estimate: Estimate
    strata: tuple[Stratum, ...]


def worst_stratum(
    names: Sequence[str],
    sums: np.ndarray,
    counts: np.ndarray,
    overall: Mapping[str, np.ndarray],
    *,
    floor: float,
) -> Worst:
    """Return the stratum whose interval of the ratio begins highest.

    A ratio is the stratum's mean divided by the mean of all tokens, or by ``floor`` where that is
    larger, so that nothing is a large share of next to nothing. Where the overall sum is the count,
    it is the stratum's mean itself. Each interval has the level
    1 − α/m, m the number of strata (Bonferroni): all of them hold at once, so that the interval
    also holds for the stratum that was chosen because it looks worst.

    Args:
        names: of the strata.
        sums: ``[sequences, strata]``.
        counts: number of tokens, likewise.
        overall: ``sum`` and ``count`` of all tokens by sequence, with CLUSTER where any repeat.
        floor: the least divisor.

    Raises:
        ValueError: where no stratum has a token.

    Example:
        >>> sums = np.array([[1.0, 4.0], [1.0, 5.0], [1.0, 6.0]])
        >>> overall = {"sum": sums.sum(axis=1), "count": np.full(3, 2.0)}
        >>> found = worst_stratum(["a", "b"], sums, np.ones((3, 2)), overall, floor=0.1)
        >>> found.stratum.name, round(found.estimate.value, 4)
        ('b', 1.6667)
    """
    used = np.flatnonzero(counts.sum(axis=0))
    if not len(used):
        raise ValueError("no stratum has a token")
    level = 1 - (1 - current_level()) / len(used)
    ratios, errors = _by_delta(sums[:, used], counts[:, used], overall, floor=floor)
    reach = float(stdtrit(max(1, independent(overall) - 1), 0.5 + level / 2))
    strata = tuple(
        Stratum(
            names[int(j)],
            float(sums[:, j].sum() / counts[:, j].sum()),
            int(counts[:, j].sum()),
            float(ratio),
            float(ratio - reach * error),
        )
        for j, ratio, error in zip(used, ratios, errors, strict=True)
    )
    order = np.argsort([-s.low for s in strata], kind="stable")[:SCREENED]
    tables = {i: (sums[:, used[i]], counts[:, used[i]]) for i in order}
    estimates = _bootstrapped(tables, overall, floor=floor, level=level, strata=len(used))
    at = max(estimates, key=lambda i: _sortable(estimates[i]))
    return Worst(strata[at], estimates[at], strata)


def worst_formula(wanted: Mapping[str, Wanted], table: Table) -> tuple[str, Estimate]:
    """Return the formula whose interval begins highest, with the interval that holds for all.

    Args:
        wanted: the formulas by name.
        table: per-sequence sums by channel.

    Example:
        >>> table = {"a": np.array([1.0, 2.0, 3.0]), "b": np.array([7.0, 8.0, 9.0])}
        >>> ways = {c: Wanted(lambda sums, c=c: sums[c] / 3, (c,)) for c in table}
        >>> name, found = worst_formula(ways, table)
        >>> name, found.value
        ('b', 8.0)
    """
    level = 1 - (1 - current_level()) / len(wanted)
    sampled = sample_all(wanted, table)
    estimates = {
        name: Estimate(each.value, _named(each.interval(level), len(wanted)))
        for name, each in sampled.items()
    }
    worst = max(estimates, key=lambda name: _sortable(estimates[name]))
    return worst, estimates[worst]


def _sortable(estimate: Estimate) -> float:
    return estimate.value if estimate.interval is None else estimate.interval.low


def _ratio(name: str, floor: float) -> Formula:
    def formula(sums: Mapping[str, np.ndarray]) -> np.ndarray:
        mean = sums[f"{name}.{SUM}"] / sums[f"{name}.{COUNT}"]
        return mean / np.maximum(sums[SUM] / sums[COUNT], floor)

    return formula


def _bootstrapped(
    tables: Mapping[int, tuple[np.ndarray, np.ndarray]],
    overall: Mapping[str, np.ndarray],
    *,
    floor: float,
    level: float,
    strata: int,
) -> dict[int, Estimate]:
    """Return the ratios of some strata with their intervals."""
    wanted, table = {}, dict(overall)
    for i, (sums, counts) in tables.items():
        table |= {f"{i}.{SUM}": sums, f"{i}.{COUNT}": counts}
        channels = (f"{i}.{SUM}", f"{i}.{COUNT}", SUM, COUNT)
        wanted[str(i)] = Wanted(_ratio(str(i), floor), channels)
    sampled = sample_all(wanted, table)
    return {
        i: Estimate(sampled[str(i)].value, _named(sampled[str(i)].interval(level), strata))
        for i in tables
    }


def _named(interval: Interval | None, strata: int) -> Interval | None:
    if interval is None:
        return None
    method = f"{interval.method}; holds for all {strata} strata at once (Bonferroni)"
    return replace(interval, level=current_level(), method=method)


def _by_delta(
    sums: np.ndarray, counts: np.ndarray, overall: Mapping[str, np.ndarray], *, floor: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return each stratum's ratio and its standard error over the texts that differ."""
    total, count = overall[SUM].sum(), overall[COUNT].sum()
    divisor = max(total / count, floor)
    means = sums.sum(axis=0) / counts.sum(axis=0)
    influence = (sums - means * counts) / counts.sum(axis=0) / divisor
    if total / count > floor:
        own = (overall[SUM] - total / count * overall[COUNT]) / total
        influence = influence - own[:, None] * (means / divisor)
    influence = rows_by_text(influence, overall.get(CLUSTER))
    n = len(influence)
    return means / divisor, np.sqrt((influence**2).sum(axis=0) * n / max(1, n - 1))
