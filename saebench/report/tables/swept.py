"""A sweep of trainings for people: one table for each place."""

from collections.abc import Iterator

from rich import box
from rich.table import Table
from rich.text import Text

from saebench.records.sweep import KL, L0, SweepPoint, SweepRecord
from saebench.report.sections.training_section import NONE, ends, number, places
from saebench.report.style import plain_text

COLUMNS = ("sparsity", "objective", "L0 ↓", "KL ↓", "95% CI", "less standard", "tax")
WIDER = {"mse": "mse", "l2_ratio": "l2_ratio", "KL gap": "kl_gap_ratio"}
NARROW = 110


def frontier_tables(sweep: SweepRecord, *, width: int) -> Iterator[Table]:
    """Give the tables, a place each.

    Args:
        sweep: what was found.
        width: of the terminal; where it is narrow, some columns are left out.
    """
    data, wider = sweep.judged_on, WIDER if width >= NARROW else {}
    for (equal, hook), some in places(sweep).items():
        table = Table(
            title=Text(plain_text(f"{hook}, equal {equal}"), style="bold not italic"),
            title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False,
            caption=f"{data.sequences} sequences of {data.context} tokens of {data.name}",
            caption_justify="left",
        )  # fmt: skip
        for name in (*COLUMNS, *wider):
            justify = "left" if name in COLUMNS[:2] else "right"
            table.add_column(name, justify=justify, no_wrap=True)
        for point in some:
            less = point.against_standard or NONE
            told = "" if less.value is None else f"{less.value:+.3g} {ends(less, '+').text}"
            table.add_row(
                point.sparsity,
                point.objective,
                number(point, L0).text,
                number(point, KL).text,
                ends(point.metrics.get(KL, NONE)).text,
                told,
                *(number(point, name).text for name in ("tax_kl", *wider.values())),
            )
        yield table


MARKDOWN_COLUMNS = ("sparsity", "objective", "tokens", "L0", "KL, nats", "less standard",
                    "mse", "l2_ratio", "KL gap", "tax")  # fmt: skip
HEADER = (f"| {' | '.join(MARKDOWN_COLUMNS)} |", "|---" * len(MARKDOWN_COLUMNS) + "|")


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
