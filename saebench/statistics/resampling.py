"""Bootstrap resamples of sequences: how often each takes each, and the sums that come of it."""

from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np

DRAWS = 10_000
FEWER_DRAWS = 2_000
MANY_SEQUENCES = 4_096
DRAWS_AT_ONCE = 1_000
SEED = 20_240_331  # of the resampling alone; every interval uses the same resamples


def resampled_sums(columns: np.ndarray) -> np.ndarray:
    """Return the sums of each resample: counts times per-sequence values, for all columns at once.

    Args:
        columns: float64 ``[sequences, columns]``.

    Example:
        >>> resampled_sums(np.ones((8, 2))).shape
        (10000, 2)
    """
    return np.concatenate([counts @ columns for counts in _count_blocks(len(columns))])


def _count_blocks(n: int) -> Iterable[np.ndarray]:
    if n <= MANY_SEQUENCES // 4:
        return _kept_blocks(n)
    return _made_blocks(n)


@lru_cache(maxsize=2)
def _kept_blocks(n: int) -> list[np.ndarray]:
    return list(_made_blocks(n))


def _made_blocks(n: int) -> Iterator[np.ndarray]:
    """Give how often each resample takes each sequence, in blocks of resamples."""
    rng = np.random.default_rng(SEED)
    draws = DRAWS if n <= MANY_SEQUENCES else FEWER_DRAWS
    for start in range(0, draws, DRAWS_AT_ONCE):
        size = min(DRAWS_AT_ONCE, draws - start)
        picked = rng.integers(0, n, size=(size, n), dtype=np.int32)
        picked += (n * np.arange(size, dtype=np.int32))[:, None]
        counts = np.bincount(picked.ravel(), minlength=size * n).reshape(size, n)
        yield counts.astype(np.float64)
