"""Error rates: the level of intervals at each look at the data, and p-values of several gates."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from saebench.records.metric import LEVEL

_CURRENT: ContextVar[float] = ContextVar("level", default=LEVEL)


def current_level() -> float:
    """Return the level of intervals whose level is not given."""
    return _CURRENT.get()


@contextmanager
def at_level(level: float) -> Iterator[None]:
    """Set the level of all intervals within the context, as for every metric of one look.

    Example:
        >>> with at_level(0.99):
        ...     current_level()
        0.99
    """
    token = _CURRENT.set(level)
    try:
        yield
    finally:
        _CURRENT.reset(token)


FIRST = 32  # sequences
TENTH = 10
FIRST_SHARE = 1 / 64  # of the run; before that, the error to spend is too small for any interval
POWER = 3  # error is spent as this power of the run's share: nearly O'Brien's and Fleming's
COVERED = 0.93  # the lowest coverage of 95% intervals on data as skewed as KL's: tests/statistics
SPENT = (1 - LEVEL) * (1 - LEVEL) / (1 - COVERED)  # the error to spend; the rest covers that gap


@dataclass(frozen=True)
class Look:
    """One look at the data.

    Attributes:
        number: counted from 1.
        of: the largest number of looks.
        sequences: the number measured by then.
        level: of its intervals.
    """

    number: int
    of: int
    sequences: int
    level: float


def looks(sequences: int, *, first: int = FIRST) -> tuple[Look, ...]:
    """Return the looks at a run: at 32 sequences, at twice as many each time, and at all.

    There is one more at a tenth of the run, by which clear cases should have ended.

    Their intervals are repeated confidence intervals: with 95% all of them cover the truth, so
    that a run may end at any look, for any reason, with an error of at most 5%. By the time that a
    share t of the run is measured, an error of 3.6%·t³ is spent. That is very little at the first
    looks, which have too few sequences for intervals of skewed data to reach their nominal
    coverage. It is 3.6% and not 5% because intervals of 95% may cover 93%: if all miss 7/5 as often
    as their level says, the run still errs in 5%. The errors are only added up (Bonferroni):
    nothing is assumed of how the looks depend on each other.

    Args:
        sequences: of a complete run.
        first: sequences at the first look; a run of more than 64 times as many looks later.

    Source:
        Jennison & Turnbull 1989, "Interim analyses: the repeated confidence interval approach";
        Kim & DeMets 1987, "Design and analysis of group sequential tests based on the type I error
        spending rate function" (powers of t; the third is close to O'Brien & Fleming 1979).

    Example:
        >>> [(look.sequences, round(look.level, 4)) for look in looks(128)]
        [(32, 0.9994), (64, 0.9961), (128, 0.9687)]
    """
    size = max(first, math.ceil(FIRST_SHARE * sequences))
    if size >= sequences:
        return (Look(1, 1, sequences, LEVEL),)
    sizes = [sequences, max(size, sequences // TENTH)]
    while size < sequences:
        sizes.append(size)
        size *= 2
    sizes = sorted(set(sizes))
    spent = [0.0, *(SPENT * (size / sequences) ** POWER for size in sizes)]
    levels = [1 - (now - before) for before, now in pairwise(spent)]
    pairs = enumerate(zip(sizes, levels, strict=True), start=1)
    return tuple(Look(i, len(sizes), n, level) for i, (n, level) in pairs)


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
