"""Several looks at a run: how much of the error each may use, so that all hold together."""

from dataclasses import dataclass

from saebench.statistics.level import LEVEL

FIRST = 32  # sequences: with fewer, intervals at the levels that a look has are not to be trusted
LAST_SHARE = 0.5  # of the error, for the look at all sequences


@dataclass(frozen=True)
class Look:
    """One look at the data.

    Attributes:
        number: counted from 1.
        of: how many there may be.
        sequences: how many are measured by then.
        level: of its intervals.
    """

    number: int
    of: int
    sequences: int
    level: float


def looks(sequences: int, *, first: int = FIRST) -> tuple[Look, ...]:
    """Return the looks at a run: at 32 sequences, at twice as many each time, and at all.

    Their intervals are repeated confidence intervals: with 95% all of them cover the truth, and
    so a run may end at any look, for any reason, with an error of at most 5% in what it then says.
    The error is spent in parts that add up to 5%: half of it at the last look, whose intervals
    are therefore hardly wider than a run's that looks once, the rest in equal parts. That they add
    up is all that is used (Bonferroni): nothing is assumed of how the looks depend on each other.

    Args:
        sequences: of the whole run.
        first: at how many to look first.

    Source:
        Jennison & Turnbull 1989, "Interim analyses: the repeated confidence interval approach";
        Lan & DeMets 1983, "Discrete sequential boundaries for clinical trials" (error spending).

    Example:
        >>> [(look.sequences, round(look.level, 4)) for look in looks(128)]
        [(32, 0.9875), (64, 0.9875), (128, 0.975)]
    """
    sizes = []
    size = first
    while size < sequences:
        sizes.append(size)
        size *= 2
    error, count = 1 - LEVEL, len(sizes) + 1
    if count == 1:
        return (Look(1, 1, sequences, LEVEL),)
    early = error * (1 - LAST_SHARE) / len(sizes)
    levels = [1 - early] * len(sizes) + [1 - error * LAST_SHARE]
    pairs = zip([*sizes, sequences], levels, strict=True)
    return tuple(Look(i, count, n, level) for i, (n, level) in enumerate(pairs, start=1))
