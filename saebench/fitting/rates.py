"""Learning rates of a fit: a resumed one may have another than it was begun with."""

from collections.abc import Sequence
from dataclasses import dataclass


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
