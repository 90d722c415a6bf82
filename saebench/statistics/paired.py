"""Two measurements of the same sequences: formulas of both, resampled pair by pair."""

from collections.abc import Callable

import numpy as np

from saebench.records.metric import CLUSTER
from saebench.statistics.bootstrap import Sampled, sample
from saebench.statistics.linear import Formula, Table

Combine = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Takes a formula's values of the first and of the second measurement."""
SIDES = ("one", "two")


def difference(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Return two less one."""
    return two - one


def sample_pair(
    formula: Formula, one: Table, two: Table, *, combine: Combine = difference
) -> Sampled:
    """Return the sampling distribution of how a formula of sums differs between two measurements.

    Each resample takes the same sequences of both: what makes a text hard for either cancels.

    Args:
        formula: takes sums by channel; it reads no channel that the tables lack.
        one: per-sequence sums by channel.
        two: the same of the same sequences in the same order.
        combine: the formula's two values; the second less the first by default.

    Raises:
        ValueError: for tables of different lengths.

    Example:
        >>> one = {"kl": np.array([1.0, 2.0, 3.0]), "n": np.ones(3)}
        >>> two = {"kl": np.array([1.5, 2.5, 3.5]), "n": np.ones(3)}
        >>> round(sample_pair(lambda s: s["kl"] / s["n"], one, two).value, 6)
        0.5
    """
    return sample(of_pair(formula, combine), pair(one, two))


def of_pair(formula: Formula, combine: Combine) -> Formula:
    """Return a formula of a :func:`pair` of tables: a formula's value of each side, combined."""

    def combined(sums: Table) -> np.ndarray:
        one, two = (formula(_side(sums, side)) for side in SIDES)
        return combine(one, two)

    return combined


def pair(one: Table, two: Table) -> dict[str, np.ndarray]:
    """Return two tables of the same sequences as one: ``one/CHANNEL``, ``two/CHANNEL``, clusters.

    The sequences are the same, so that either table's clusters are both tables'; sums that were
    stored before there were clusters have none.

    Raises:
        ValueError: for tables of different lengths.

    Example:
        >>> one, two = {"n": np.ones(2), CLUSTER: np.zeros(2)}, {"n": np.ones(2)}
        >>> list(pair(one, two))
        ['one/n', 'two/n', 'cluster']
    """
    lengths = {len(values) for table in (one, two) for values in table.values()}
    if len(lengths) != 1:
        raise ValueError(f"paired tables must be of the same sequences; lengths {sorted(lengths)}")
    together = {
        f"{side}/{channel}": values
        for side, table in zip(SIDES, (one, two), strict=True)
        for channel, values in table.items()
        if channel != CLUSTER
    }
    clusters = [table[CLUSTER] for table in (one, two) if CLUSTER in table]
    return together | ({CLUSTER: clusters[0]} if clusters else {})


def _side(sums: Table, side: str) -> Table:
    start = f"{side}/"
    return {c.removeprefix(start): v for c, v in sums.items() if c.startswith(start)}
