"""Cost: where the time went, memory and speed."""

from collections.abc import Iterator

from saebench.records.run import Cost, Run
from saebench.report.charts import Axis, Cell, Chart, Figure, Form, Layer, Table, View
from saebench.report.queries import Material, bars, cases_of, sae_axis, size_of
from saebench.report.sections import Section

PARTS = {"reconstruct": "encode and decode", "core": "the whole core"}


def _figures(material: Material) -> Iterator[Figure]:
    if material.run.cost:
        yield Figure(
            "cost-stages",
            "Where the time went",
            "Seconds of each stage of each measurement, of all SAEs that shared it.",
            (View(_stages(material.run)),),
        )
    cases = [case for case in cases_of(material.run, "cost") if case.metrics]
    if cases:
        layers = tuple(
            bars(label, cases, f"cost.tokens_per_s[{part}]", form=Form.DOTS)
            for part, label in PARTS.items()
        )
        axes = sae_axis(cases), Axis("tokens a second", log=True)
        chart = Chart(*axes, layers, size_of(cases), "the fastest of several rounds, no interval")
        yield Figure("cost-speed", "Speed", "Higher is better.", (View(chart),))


def _stages(run: Run) -> Chart:
    names = [_name(run, i) for i in range(len(run.cost))]
    stages = dict.fromkeys(stage for cost in run.cost for stage in cost.seconds)
    layers = tuple(
        Layer(stage, Form.BARS, names, [cost.seconds.get(stage) for cost in run.cost])
        for stage in stages
    )
    tokens = sum(cost.tokens for cost in run.cost)
    axis = Axis("measured on", categories=tuple(names))
    return Chart(
        axis,
        Axis("seconds"),
        layers,
        f"n = {tokens:,} tokens",
        "timed once, no interval",
        stacked=True,
    )


def _name(run: Run, index: int) -> str:
    name = run.cost[index].measured_on
    alike = sum(cost.measured_on == name for cost in run.cost) > 1
    return f"{name} {index + 1}" if alike else name


def _tables(material: Material) -> Iterator[Table]:
    if material.run.cost:
        yield Table(
            "cost-table",
            "Every measurement",
            ("measured on", "model", "SAEs", "tokens", "seconds", "tokens/s", "peak memory, MB"),
            tuple(_row(cost) for cost in material.run.cost),
        )


def _row(cost: Cost) -> tuple[str | Cell, ...]:
    seconds = sum(cost.seconds.values())
    speed = cost.tokens / seconds if seconds else 0.0
    numbers = (len(cost.saes), cost.tokens, seconds, speed, cost.peak_memory_bytes / 1e6)
    return (cost.measured_on, cost.model, *(Cell(f"{n:,.4g}", float(n)) for n in numbers))


SECTION = Section("cost", "Cost", "What did judging take?", 100, _figures, _tables)
