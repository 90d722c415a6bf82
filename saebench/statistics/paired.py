"""Two measurements of the same sequences: how much one differs from the other."""

import numpy as np

from saebench.statistics.bootstrap import Sampled, sample
from saebench.statistics.clusters import side_by_side
from saebench.statistics.linear import Formula, Table


def paired_difference(formula: Formula, one: Table, two: Table) -> Sampled:
    """Return how far a formula of sums moves from one measurement to the other, two less one.

    Each resample takes the same sequences of both: what makes a text hard for either cancels.

    Args:
        formula: takes sums by channel; it reads no channel that the tables lack.
        one: per-sequence sums by channel.
        two: the same of the same sequences in the same order.

    Raises:
        ValueError: for tables of different lengths.

    Example:
        >>> one = {"kl": np.array([1.0, 2.0, 3.0]), "n": np.ones(3)}
        >>> two = {"kl": np.array([1.5, 2.5, 3.5]), "n": np.ones(3)}
        >>> round(paired_difference(lambda s: s["kl"] / s["n"], one, two).value, 6)
        0.5
    """
    return sample(
        lambda sums: _of(formula, sums, "two") - _of(formula, sums, "one"),
        side_by_side({"one": one, "two": two}),
    )


def paired_change(formula: Formula, one: Table, two: Table) -> Sampled:
    """Return by which share of the first a formula of sums moves: two over one, less 1.

    Args:
        formula: takes sums by channel; it reads no channel that the tables lack.
        one: per-sequence sums by channel.
        two: the same of the same sequences in the same order.

    Raises:
        ValueError: for tables of different lengths.

    Example:
        >>> one = {"kl": np.array([1.0, 2.0, 3.0]), "n": np.ones(3)}
        >>> two = {"kl": np.array([1.1, 2.2, 3.3]), "n": np.ones(3)}
        >>> round(paired_change(lambda s: s["kl"] / s["n"], one, two).value, 6)
        0.1
    """

    def change(sums: Table) -> np.ndarray:
        before = _of(formula, sums, "one")
        return (_of(formula, sums, "two") - before) / np.abs(before)

    return sample(change, side_by_side({"one": one, "two": two}))


def _of(formula: Formula, sums: Table, side: str) -> np.ndarray:
    start = f"{side}/"
    return formula({c.removeprefix(start): v for c, v in sums.items() if c.startswith(start)})
