"""Fits of SAEs: the job and the schedule that repairs and trainings share. Loads no torch."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any

from saebench.errors import OptionError


@dataclass(frozen=True)
class Range:
    """The values that a number may have.

    Attributes:
        text: how an error message names them.
        least: the smallest of them.
        below: what all of them are below.

    Example:
        >>> 1.0 in SHARE, 0.5 in SHARE
        (False, True)
    """

    text: str
    least: float
    below: float = math.inf

    def __contains__(self, value: float) -> bool:
        return self.least <= value < self.below


COUNT = Range("1 or more", 1)
NOT_NEGATIVE = Range("0 or more", 0)
POSITIVE = Range("above 0", math.ulp(0.0))
SHARE = Range("a share, 0 to 1", 0, 1)
SEED = Range(f"0 to {(1 << 31) - 1}", 0, 1 << 31)


def number(
    default: float | None,
    help: str,  # noqa: A002  (as argparse calls it)
    allowed: Range = COUNT,
    *,
    kind: type | None = None,
) -> Any:
    """Declare a number of a job: its field and the command's option both come from it.

    Args:
        default: its value where none is given.
        help: what it means.
        allowed: the values that it may have.
        kind: int or float, where the default does not show it.
    """
    known = {"help": help, "allowed": allowed, "kind": kind or type(default)}
    return field(default=default, metadata=known)


def numbers_of(job: Any) -> "Iterator[tuple[str, Field[Any]]]":
    """Give the options of the numbers that a job declares, each with its field.

    Example:
        >>> [option for option, _ in numbers_of(FitJob)]
        ['--tokens', '--learning-rate', '--patience']
    """
    for each in fields(job):
        if each.metadata:
            yield "--" + each.name.replace("_", "-"), each


def check_numbers(job: Any) -> None:
    """Refuse a number that is out of its range.

    Raises:
        OptionError: naming the option.
    """
    for option, each in numbers_of(job):
        value, allowed = getattr(job, each.name), each.metadata["allowed"]
        if value is not None and value not in allowed:
            raise OptionError(f"{option} must be {allowed.text}, found {value}")


@dataclass(frozen=True, kw_only=True)
class FitJob:
    """What every repair and every training is asked to do; numbers carry their own help.

    Attributes:
        dataset: the texts to fit on; None takes the demo's own.
        judged: the texts to judge on.
        device: ``auto``, or a torch device.
        dtype: of the model.
        force: replace the output directory, and begin anew where there is a checkpoint.
        resume: go on from the checkpoint.
    """

    dataset: str | None = None
    judged: str | None = None
    tokens: int = number(2_000_000, "tokens to fit on, at most")
    learning_rate: float = number(1e-3, "of AdamW; falls to 0 over the last fifth", POSITIVE)
    patience: int = number(5, "in checks, of which a fit has twenty")
    device: str = "auto"
    dtype: str = "float32"
    force: bool = False
    resume: bool = False

    def __post_init__(self) -> None:
        """Refuse values that no fit can have.

        Raises:
            OptionError: naming the option.
        """
        check_numbers(self)
        if self.resume and self.force:
            raise OptionError("--resume goes on, --force starts anew: give one of the two")

    def check_tokens(self, step_tokens: int) -> int:
        """Return how many tokens lie between two checks: twenty checks, or more of a long fit.

        Args:
            step_tokens: tokens of one step.
        """
        return min(1_000_000, max(step_tokens, self.tokens // 20))


def has_converged(losses: Sequence[float], *, patience: int, tolerance: float) -> bool:
    """Return whether the last checks improved on all before them by less than a share.

    Args:
        losses: the loss at each check, in order, the one before the first step included.
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
    """Return the learning rate: a linear warm-up, a constant, a linear decay to 0 at the end.

    Args:
        tokens: done so far.
        rate: the constant one.
        end: at which tokens the fit ends.
        decay_tokens: the last tokens, over which it falls.
        warm_up_tokens: the first tokens, over which it rises.

    Example:
        >>> [rate_at(t, rate=1.0, end=100, decay_tokens=20) for t in (0, 80, 90)]
        [1.0, 1.0, 0.5]
    """
    rising = (tokens + 1) / max(1, warm_up_tokens)
    return rate * min(1.0, rising, max(0, end - tokens) / max(1, decay_tokens))


@dataclass(frozen=True)
class Rate:
    """A learning rate, and the number of tokens after which it was set."""

    tokens: int
    rate: float


def notes_on_rates(rates: Sequence[Rate]) -> tuple[str, ...]:
    """Return a note where a resumed fit went on with another learning rate.

    Example:
        >>> notes_on_rates([Rate(0, 0.01), Rate(2000, 0.001)])
        ('the learning rate was changed when the fit was resumed: 0.01 from 0 tokens on, \
0.001 from 2,000 tokens on',)
        >>> notes_on_rates([Rate(0, 0.01)])
        ()
    """
    if len(rates) < 2:
        return ()
    each = ", ".join(f"{one.rate:g} from {one.tokens:,} tokens on" for one in rates)
    return (f"the learning rate was changed when the fit was resumed: {each}",)


@dataclass(frozen=True)
class Plan:
    """How long a fit goes on, and how fast.

    Attributes:
        tokens: how many at most.
        learning_rate: of AdamW, which is Adam without a weight decay.
        check_tokens: tokens between two checks; each check writes the checkpoint.
        patience: how many checks without improvement end the fit.
        tolerance: the share that counts as improvement; 0 never ends the fit early.
        decay_share: the last share of the tokens, over which the learning rate falls to 0.
        warm_up_tokens: the first tokens, over which the learning rate rises.
        clip: the largest norm of all gradients together; None does not clip.
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
