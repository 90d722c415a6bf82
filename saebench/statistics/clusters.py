"""Clusters: sequences that repeat each other are one observation, and are resampled together.

A table of per-sequence sums may have a channel :data:`saebench.records.metric.CLUSTER` with the
number of each sequence's cluster. In tables without it all sequences differ.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from saebench.records.metric import CLUSTER
from saebench.statistics.linear import Table


def chosen(table: Table, channels: Iterable[str]) -> dict[str, np.ndarray]:
    """Return some of a table's channels, with its clusters where it has any."""
    named = {channel: table[channel] for channel in channels}
    return named | ({CLUSTER: table[CLUSTER]} if CLUSTER in table else {})


def of_clusters(table: Table) -> Mapping[str, np.ndarray]:
    """Return the sums by cluster; the table itself where its sequences all differ.

    Clusters are in the order of their first sequences.

    Example:
        >>> of_clusters({"kl": np.array([1.0, 2.0, 3.0]), CLUSTER: np.array([0.0, 1.0, 0.0])})
        {'kl': array([4., 2.])}
    """
    if CLUSTER not in table:
        return table
    sums = {channel: values for channel, values in table.items() if channel != CLUSTER}
    distinct, index = np.unique(table[CLUSTER], return_inverse=True)
    if len(distinct) == len(index):
        return sums
    return {
        channel: np.bincount(index, np.asarray(values, dtype=np.float64), len(distinct))
        for channel, values in sums.items()
    }


def rows_by_text(rows: np.ndarray, clusters: np.ndarray | None) -> np.ndarray:
    """Return the sums of a matrix's rows by cluster; the matrix itself without clusters.

    Example:
        >>> rows_by_text(np.array([[1, 2], [3, 4], [5, 6]]), np.array([0.0, 1.0, 0.0]))
        array([[6, 8],
               [3, 4]])
    """
    if clusters is None:
        return rows
    distinct, index = np.unique(clusters, return_inverse=True)
    sums = np.zeros((len(distinct), rows.shape[1]), dtype=rows.dtype)
    np.add.at(sums, index, rows)
    return sums


def independent(table: Table) -> int:
    """Return the number of independent observations in a table: its clusters, or its sequences."""
    if CLUSTER in table:
        return len(np.unique(table[CLUSTER]))
    return len(next(iter(table.values())))


def firsts(table: Table) -> np.ndarray:
    """Return the index of the first sequence of each cluster, to count each text once.

    Example:
        >>> firsts({"kl": np.array([1.0, 2.0, 1.0]), CLUSTER: np.array([4.0, 2.0, 4.0])})
        array([0, 1])
    """
    if CLUSTER not in table:
        return np.arange(independent(table))
    return np.sort(np.unique(table[CLUSTER], return_index=True)[1])
