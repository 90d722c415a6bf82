"""Bootstrap resamples of sequences: how often each takes each, and the sums that come of it."""

from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np

DRAWS = 10_000
FEWER_DRAWS = 2_000
MANY_SEQUENCES = 4_096
SEED = 20_240_331  # of the resampling alone; every interval uses the same resamples
AT_ONCE = 1 << 17  # sequences picked at once: what is made of them stays in the cache
LARGEST_KEPT = 1 << 26  # bytes of counts, of which each is one: 2,000 resamples of 33,000


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
        # A column's sums lie side by side: everything made of them reads one after the other.
        sums[:, start : start + len(counts)] = (counts.astype(np.float64) @ columns).T
        start += len(counts)
    return sums


def _draws(n: int) -> int:
    return DRAWS if n <= MANY_SEQUENCES else FEWER_DRAWS


def _count_blocks(n: int) -> Iterable[np.ndarray]:
    return _kept_blocks(n) if n * _draws(n) <= LARGEST_KEPT else _made_blocks(n)


@lru_cache(maxsize=2)
def _kept_blocks(n: int) -> list[np.ndarray]:
    return list(_made_blocks(n))


def _made_blocks(n: int) -> Iterator[np.ndarray]:
    """Give how often each resample takes each sequence, in blocks of resamples."""
    rng = np.random.default_rng(SEED)
    draws = _draws(n)
    rows = min(draws, max(1, AT_ONCE // n))
    offsets = n * np.arange(rows)[:, None]
    for start in range(0, draws, rows):
        size = min(rows, draws - start)
        picked = rng.integers(0, n, size=(size, n), dtype=np.int32) + offsets[:size]
        counts = np.bincount(picked.ravel(), minlength=size * n).reshape(size, n)
        yield counts.astype(np.min_scalar_type(int(counts.max())))
