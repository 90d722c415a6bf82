"""Verdicts, and what several of them come to."""

from collections.abc import Iterable
from enum import StrEnum


class Verdict(StrEnum):
    """The verdict on a gate, a case or a run."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    INCOMPLETE = "INCOMPLETE"  # of a run or an SAE: a deciding case was not judged
    NEW = "NEW"
    INCOMPARABLE = "INCOMPARABLE"
    SKIPPED = "SKIPPED"
    ERROR = "ERROR"


SEVERITY = {
    Verdict.ERROR: 7,
    Verdict.FAIL: 6,
    Verdict.INCOMPARABLE: 5,
    Verdict.INCOMPLETE: 4,
    Verdict.INCONCLUSIVE: 3,
    Verdict.NEW: 2,
    Verdict.PASS: 1,
    Verdict.SKIPPED: 0,
}


def worst(verdicts: list[Verdict]) -> Verdict:
    """Return the most severe verdict.

    Raises:
        ValueError: for an empty list: what was never decided is not a PASS.

    Example:
        >>> worst([Verdict.PASS, Verdict.FAIL]).value
        'FAIL'
    """
    return max(verdicts, key=SEVERITY.__getitem__)


def overall(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the verdict on several cases together: the worst of those that were decided.

    A skipped case does not count; nor does a new one, which has nothing to be compared with,
    where others were decided.

    Example:
        >>> overall([Verdict.SKIPPED, Verdict.NEW, Verdict.PASS]).value
        'PASS'
    """
    given = set(verdicts)
    decided = given - {Verdict.SKIPPED, Verdict.NEW}
    return worst(list(decided or given or {Verdict.SKIPPED}))
