"""Several decisions at once: p-values corrected for how many there are."""

from collections.abc import Sequence

import numpy as np


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return Holm's adjusted p-values: any below α keep the chance of one false claim at α.

    Args:
        p: p-values in any order.

    Raises:
        ValueError: for what is no probability.

    Source:
        Holm 1979, "A simple sequentially rejective multiple test procedure".

    Example:
        >>> holm([0.01, 0.04, 0.03])
        array([0.03, 0.06, 0.06])
    """
    values = np.asarray(p, dtype=np.float64)
    wrong = ~((values >= 0) & (values <= 1))
    if values.ndim != 1 or wrong.any():
        raise ValueError(f"p-values: expected a list of numbers in [0, 1], found {p!r}")
    order = np.argsort(values, kind="stable")
    stepped = values[order] * (len(values) - np.arange(len(values)))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(stepped))
    return adjusted
