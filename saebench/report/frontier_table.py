"""A sweep of trainings for people: one table for each place."""

from collections.abc import Iterator

from rich import box
from rich.table import Table
from rich.text import Text

from saebench.report.sections.training import NONE, ends, number, places
from saebench.report.style import plain_text
from saebench.sweeps import KL, L0, SweepRecord

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
