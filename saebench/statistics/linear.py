"""The delta method: how much each sequence contributes to a formula of sums."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

Table = Mapping[str, np.ndarray]
Formula = Callable[[Table], np.ndarray]

STEP = 1e-3  # of a sum's own standard error: the formula is nearly straight over it
ROUNDING = 1e-13  # of the largest value: equal numbers whose mean was rounded spread by less


def influences(formula: Formula, table: Table) -> np.ndarray:
    """Return how much each sequence moves a formula of sums, to first order; they add up to 0.

    The formula's variance is that of their sum, also where it is a ratio of sums.

    Source:
        Davison & Hinkley 1997, "Bootstrap Methods and their Application", 2.7.2.

    Example:
        >>> table = {"kl": np.array([1.0, 3.0]), "n": np.array([1.0, 1.0])}
        >>> np.round(influences(lambda s: s["kl"] / s["n"], table), 6)
        array([-0.5,  0.5])
    """
    channels = list(table)
    columns = np.stack([table[c] for c in channels], axis=1).astype(np.float64)
    slopes = gradient(formula, channels, columns.sum(axis=0)[:, None], steps=steps_of(columns))
    return (columns - columns.mean(axis=0)) @ slopes[:, 0]


def steps_of(columns: np.ndarray) -> np.ndarray:
    """Return the step of each sum for slopes; 0 for a sum that is equal in all resamples."""
    spread = columns.std(axis=0)
    rounding = ROUNDING * np.abs(columns).max(axis=0, initial=0)
    return np.where(spread > rounding, STEP * spread * np.sqrt(len(columns)), 0.0)


def gradient(
    formula: Formula, channels: Sequence[str], sums: np.ndarray, *, steps: np.ndarray
) -> np.ndarray:
    """Return the formula's slope in each sum, by central differences.

    Args:
        formula: takes sums by channel, of any shape.
        channels: their names.
        sums: ``[channels, draws]``: where to take the slope.
        steps: of each sum; the slope is 0 where the step is.
    """
    slopes = np.zeros_like(sums)
    for i, step in enumerate(steps):
        if step > 0:
            up, down = (_moved(formula, channels, sums, i, by) for by in (step, -step))
            slopes[i] = (up - down) / (2 * step)
    return slopes


def _moved(
    formula: Formula, channels: Sequence[str], sums: np.ndarray, at: int, by: float
) -> np.ndarray:
    given = {
        c: row + by if i == at else row
        for i, (c, row) in enumerate(zip(channels, sums, strict=True))
    }
    return np.asarray(formula(given))
