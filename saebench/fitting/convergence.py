"""When a fit has converged, and how its learning rate falls towards the end."""

from collections.abc import Sequence


def has_converged(losses: Sequence[float], *, patience: int, tolerance: float) -> bool:
    """Return whether the last checks improved on all before them by less than a share.

    Args:
        losses: what each check found, in order; the one before the first step included.
        patience: how many checks count as the last ones.
        tolerance: the share, such as 0.001.

    Example:
        >>> has_converged([9.0, 5.0, 4.0, 3.9999, 3.9998], patience=2, tolerance=0.001)
        True
        >>> has_converged([9.0, 5.0, 4.0, 3.5, 3.0], patience=2, tolerance=0.001)
        False
    """
    if len(losses) <= patience:
        return False
    before, after = min(losses[:-patience]), min(losses[-patience:])
    return before - after < tolerance * abs(before)


def rate_at(
    tokens: int, *, rate: float, end: int, decay_tokens: int, warm_up_tokens: int = 0
) -> float:
    """Return the learning rate: rising, constant, then falling in a straight line to the end.

    Args:
        tokens: done so far.
        rate: the constant one.
        end: at which tokens the fit ends.
        decay_tokens: over how many of the last it falls.
        warm_up_tokens: over how many of the first it rises.

    Example:
        >>> [rate_at(t, rate=1.0, end=100, decay_tokens=20) for t in (0, 80, 90)]
        [1.0, 1.0, 0.5]
    """
    rising = (tokens + 1) / max(1, warm_up_tokens)
    return rate * min(1.0, rising, max(0, end - tokens) / max(1, decay_tokens))
