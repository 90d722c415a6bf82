"""Drift: whether a metric changes along the file that its sequences come from."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from saebench.records.metric import CLUSTER
from saebench.statistics.clusters import of_clusters
from saebench.statistics.linear import Formula, Table, influences

FEWEST = 16  # independent sequences; ranks of fewer show nothing at 1%


@dataclass(frozen=True)
class Drift:
    """How a metric changes along the file.

    Attributes:
        p: of Spearman's test that a sequence's place and its influence on the metric are
            independent.
        early: the metric on the half of the sequences that come first in the file.
        late: the metric on the other half.
    """

    p: float
    early: float
    late: float


def drift_of(formula: Formula, table: Table, places: np.ndarray) -> Drift | None:
    """Return how a formula of sums changes along the file; None where that cannot be tested.

    The test is of ranks: sequences of which one is far off do not look like a drift. It sees what
    rises or falls along the file, not what rises and falls again. Repeated sequences count once,
    at the place of the first.

    Args:
        formula: takes sums by channel, of any shape.
        table: per-sequence sums by channel.
        places: each sequence's place in the file.

    Source:
        Spearman 1904, "The proof and measurement of association between two things"; influences as
        in :func:`saebench.statistics.linear.influences`.

    Example:
        >>> table = {"kl": np.arange(40.0), "n": np.ones(40)}
        >>> found = drift_of(lambda s: s["kl"] / s["n"], table, np.arange(40))
        >>> found.p < 1e-9, found.early, found.late
        (True, 9.5, 29.5)
    """
    places = _of_clusters(places, table)
    sums = {c: np.asarray(v, dtype=np.float64) for c, v in of_clusters(table).items()}
    sums.pop(CLUSTER, None)
    if len(places) < FEWEST or not all(np.isfinite(v).all() for v in sums.values()):
        return None
    with np.errstate(all="ignore"):
        moved = influences(formula, sums)
        order = np.argsort(places, kind="stable")
        halves = (order[: len(order) // 2], order[len(order) // 2 :])
        early, late = (float(formula({c: v[h].sum() for c, v in sums.items()})) for h in halves)
    if not np.isfinite([*moved, early, late]).all() or np.ptp(moved) == 0 or np.ptp(places) == 0:
        return None
    found: Any = spearmanr(places, moved)
    return Drift(float(found.pvalue), early, late)


def _of_clusters(places: np.ndarray, table: Table) -> np.ndarray:
    """Return the place of each cluster's first sequence, in the order of the clusters' sums."""
    if CLUSTER not in table:
        return places
    return places[np.unique(table[CLUSTER], return_index=True)[1]]
