"""Pairs of SAEs: the terminal's table, and the heat maps of one SAE against another."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from saebench.records.run import CaseResult, Run
from saebench.report.style import COLOURS, plain_text

COLUMNS = (
    ("‖x-x̂‖²", "mse_change[sae]"),
    ("l0", "l0_change[sae]"),
    ("‖x‖", "norm_change[sae]"),
    ("KL: SAEs", "compounding[sae]"),
    ("random", "compounding[eps_random]"),
)


@dataclass(frozen=True)
class HeatMap:
    """A matrix of one metric: the first SAE's row, the second's column; None for no such pair."""

    metric: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[float | None, ...], ...]


def heat_maps(run: Run) -> list[HeatMap]:
    """Return the run's heat maps, one a metric, SAEs in the order of the first pairs."""
    found = [case.series["heat_map"] for case in _pairs(run) if "heat_map" in case.series]
    rows = tuple(dict.fromkeys(each["row"] for each in found))
    columns = tuple(dict.fromkeys(each["column"] for each in found))
    by_pair = {(each["row"], each["column"]): each["cell"] for each in found}
    metrics = dict.fromkeys(name for each in found for name in each["cell"])
    return [
        HeatMap(
            metric,
            rows,
            columns,
            tuple(tuple(by_pair.get((r, c), {}).get(metric) for c in columns) for r in rows),
        )
        for metric in metrics
    ]


def pair_table(run: Run) -> Table | None:
    """Return a table of the pairs that were measured, or None where there are none."""
    cases = [case for case in _pairs(run) if case.metrics]
    if not cases:
        return None
    table = Table(
        title="pairs: what the second SAE sees once the first is in place, and both together",
        title_justify="left",
        title_style="not italic bold",
        caption="changes against the clean model; KL of both over the sum of each alone",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("first → second", overflow="fold")
    for heading, _ in COLUMNS:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for case in cases:
        verdict = Text(case.verdict.value, style=COLOURS[case.verdict])
        names = f"{case.params['first']} → {case.params['second']}"
        table.add_row(Text(plain_text(names)), *_cells(case), verdict)
    return table


def _pairs(run: Run) -> Sequence[CaseResult]:
    return [case for case in run.cases if "second" in case.params]


def _cells(case: CaseResult) -> list[str]:
    values = {metric.name.partition(".")[2]: metric.value for metric in case.metrics}
    return [_cell(values.get(name), name) for _, name in COLUMNS]


def _cell(value: float | None, name: str) -> str:
    if value is None:
        return "–"
    return f"{value:.2f} ×" if name.startswith("compounding") else f"{value:+.1%}"


def token_tables(run: Run) -> Iterator[Table]:
    """Give a table for each SAE where the run judged hard_tokens alone.

    Beside other properties twenty rows an SAE would bury the verdicts; the result file has them.
    """
    if {case.property for case in run.cases} != {"hard_tokens"}:
        return
    for case in run.cases:
        if case.series.get("tokens"):
            yield token_table(case)


def token_table(case: CaseResult) -> Table:
    """Return one SAE's hardest tokens: how often seen, the mean gap in nats, its interval."""
    table = Table(
        title=Text(plain_text(f"{case.sae}: hardest tokens")),
        title_justify="left",
        title_style="not italic bold",
        caption="gap: KL of the SAE's output less that of a random error of its size, nats",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("token", no_wrap=True)
    for heading in ("seen", "in texts", "mean gap"):
        table.add_column(heading, justify="right")
    table.add_column("95% CI", no_wrap=True)
    table.add_column("sd", justify="right")
    for row in case.series["tokens"]:
        ci = f"[{row['ci'][0]:.3g}, {row['ci'][1]:.3g}]" if row["ci"] else "in too few texts"
        table.add_row(
            Text(repr(row["token"])), str(row["count"]), str(row["sequences"]),
            f"{row['mean_gap']:.4g}", Text(ci), f"{row['sd']:.3g}",
        )  # fmt: skip
    return table
