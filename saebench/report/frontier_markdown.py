"""A sweep of trainings as Markdown tables, a place each."""

from collections.abc import Iterator

from saebench.report.sections.training import NONE, ends, number, places
from saebench.sweeps import KL, L0, SweepPoint, SweepRecord

COLUMNS = ("sparsity", "objective", "tokens", "L0", "KL, nats", "less standard", "mse", "l2_ratio",
           "KL gap", "tax")  # fmt: skip
HEADER = (f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|")


def frontier_markdown(sweep: SweepRecord) -> str:
    """Return one table for each place, under a line that names it."""
    parts = []
    for (equal, hook), some in places(sweep).items():
        rows = "\n".join((*HEADER, *map(_row, some)))
        parts.append(f"`{hook}`, equal {equal}:\n\n{rows}\n")
    return "\n".join(parts)


def _row(point: SweepPoint) -> str:
    return f"| {' | '.join(_cells(point))} |"


def _cells(point: SweepPoint) -> Iterator[str]:
    kl, less = point.metrics.get(KL, NONE), point.against_standard or NONE
    yield point.sparsity
    yield point.objective
    yield f"{point.tokens:,}"
    yield number(point, L0).text
    yield f"{number(point, KL).text} {ends(kl).text}"
    yield "–" if less.value is None else f"{less.value:+.3g} {ends(less, '+').text}"
    yield from (number(point, name).text for name in ("mse", "l2_ratio", "kl_gap_ratio", "tax_kl"))
