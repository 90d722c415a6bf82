"""Mergeable histograms with logarithmic bins, from which quantiles are read."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

LOWEST_EXPONENT = -10
HIGHEST_EXPONENT = 3
BINS_PER_DECADE = 100
BINS = (HIGHEST_EXPONENT - LOWEST_EXPONENT) * BINS_PER_DECADE


def binned(values: Tensor) -> Int[Tensor, "bins"]:
    """Return how many values lie in each bin, on the values' device, without a GPU sync.

    Example:
        >>> int(binned(torch.tensor([0.1, 0.2, 0.3])).sum())
        3
    """
    exponent = values.double().clamp_min(1e-300).log10()
    index = ((exponent - LOWEST_EXPONENT) * BINS_PER_DECADE).floor().long().clamp(0, BINS - 1)
    ones = torch.ones_like(index.flatten())
    return ones.new_zeros(BINS).index_add_(0, index.flatten(), ones)


@dataclass
class LogHistogram:
    """Counts of non-negative values in log-spaced bins from 1e-10 to 1e3.

    A bin is 2.3% wide, which bounds the relative error of a quantile. Values below the first
    edge (zero included) and above the last are counted in the first and the last bin.

    Example:
        >>> h = LogHistogram.empty()
        >>> h.update(torch.tensor([0.1, 0.2, 0.3]))
        >>> bool(abs(h.quantile(0.5) / 0.2 - 1) < 0.03)
        True
    """

    counts: np.ndarray

    @classmethod
    def empty(cls) -> "LogHistogram":
        """Return a histogram without any counts."""
        return cls(np.zeros(BINS, dtype=np.int64))

    def update(self, values: Tensor) -> None:
        """Count each of the values."""
        self.counts += binned(values).cpu().numpy()

    def merge(self, other: "LogHistogram") -> None:
        """Add the other's counts."""
        self.counts += other.counts

    def quantile(self, q: float) -> float:
        """Return the geometric middle of the bin that contains the q-quantile.

        Raises:
            ValueError: if the histogram is empty.
        """
        total = int(self.counts.sum())
        if total == 0:
            raise ValueError("the quantile of an empty histogram is undefined")
        # The first bin whose cumulative count reaches q·total, and at least one: it is not empty.
        index = int(np.searchsorted(np.cumsum(self.counts), max(q * total, 1)))
        return float(10 ** (LOWEST_EXPONENT + (min(index, BINS - 1) + 0.5) / BINS_PER_DECADE))

    def coarse(self, *, per_decade: int = 10) -> tuple[list[float], list[int]]:
        """Return edges and counts of wider bins, without the empty ones at both ends, for plots."""
        width = BINS_PER_DECADE // per_decade
        counts = self.counts.reshape(-1, width).sum(axis=1)
        filled = np.flatnonzero(counts)
        first, last = (int(filled[0]), int(filled[-1]) + 1) if filled.size else (0, 0)
        edges = 10 ** (LOWEST_EXPONENT + np.arange(first, last + 1) / per_decade)
        return edges.tolist(), counts[first:last].tolist()
