"""The plan of a fit: how long, how fast, and when it has converged."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


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


@dataclass(frozen=True)
class Rate:
    """A learning rate, and after how many tokens it was set."""

    tokens: int
    rate: float


def notes_on_rates(rates: Sequence[Rate]) -> tuple[str, ...]:
    """Say so where a resumed fit went on with another learning rate.

    Example:
        >>> notes_on_rates([Rate(0, 0.01), Rate(2000, 0.001)])
        ('the learning rate was changed when the fit was resumed: 0.01 from 0 tokens on, \
0.001 from 2,000 tokens on',)
        >>> notes_on_rates([Rate(0, 0.01)])
        ()
    """
    if len(rates) < 2:
        return ()
    told = [f"{each.rate:g} from {each.tokens:,} tokens on" for each in rates]
    return (f"the learning rate was changed when the fit was resumed: {', '.join(told)}",)


@dataclass(frozen=True)
class Plan:
    """How a fit goes.

    Attributes:
        tokens: how many at most.
        learning_rate: of AdamW; Adam, without a weight decay.
        check_tokens: how many between two checks; each check writes the checkpoint.
        patience: how many checks without improvement end the fit.
        tolerance: the share that counts as improvement; 0 never ends it early.
        decay_share: of the tokens, over which the learning rate falls to 0 at the end.
        warm_up_tokens: over which the learning rate rises at first.
        clip: the norm of all gradients together that none may exceed; None leaves them.
        weight_decay: AdamW's.
        diverges_from: the check may not exceed ten times this, or ten times the first check.
    """

    tokens: int
    learning_rate: float = 1e-3
    check_tokens: int = 100_000
    patience: int = 5
    tolerance: float = 1e-3
    decay_share: float = 0.2
    warm_up_tokens: int = 0
    clip: float | None = None
    weight_decay: float = 0.0
    diverges_from: float = math.inf
