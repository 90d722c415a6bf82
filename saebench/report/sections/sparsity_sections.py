"""Sparsity and cost: features that fire and the faithfulness they buy; what judging took."""

from collections.abc import Iterator
from typing import Any

from saebench.records.boards import Board
from saebench.records.case_result import CaseResult
from saebench.records.metric import Metric
from saebench.records.ranking import CASES, SPARSITY
from saebench.records.run import Cost, Run
from saebench.report.charts import (
    Axis,
    Chart,
    Figure,
    Form,
    Layer,
    View,
    bars,
    interval_of,
    sae_axis,
    size_of,
    steps,
    with_series,
)
from saebench.report.material import Material
from saebench.report.sections import Section
from saebench.report.tables import Row, Table, number, numbers, row, texts

FRONTIERS = {"fidelity.kl": "KL, nats", "kl_gap.ratio[eps_random]": "KL against ε-random, ×"}
PARTS = {"reconstruct": "encode and decode", "core": "all of the measurement"}


def _sparsity(material: Material) -> Iterator[Figure]:
    cases = material.run.cases_about("sparsity")
    if not any(case.metrics for case in cases):
        return
    yield Figure(
        "frontier",
        "Sparsity against faithfulness",
        "Down and left is better. Open marks: SAEs of the leaderboard, on the same tokens.",
        tuple(
            View(_frontier(material, metric, cases), label=label)
            for metric, label in FRONTIERS.items()
            if _points(material.run, metric)
        ),
        main=True,
    )
    yield Figure(
        "density",
        "How often each feature fires",
        "Features by the share of tokens they fire on.",
        tuple(
            View(_density(histogram, case), sae)
            for sae, histogram, case in with_series(cases, "density_histogram")
        ),
    )


def _points(run: Run, metric: str) -> list[tuple[str, Metric, Metric]]:
    """Return each SAE with its l0 and the metric."""
    points = []
    for case in run.cases_about("sparsity"):
        others = [c for c in run.cases_of(case.sae) if c.kind == CASES[metric]]
        l0, value = case.defined(SPARSITY), others[0].defined(metric) if others else None
        if l0 is not None and value is not None:
            points.append((case.sae, l0, value))
    return points


def _frontier(material: Material, metric: str, cases: list[CaseResult]) -> Chart:
    points = _points(material.run, metric)
    own = Layer(
        "this run", Form.DOTS, [l0.value for _, l0, _ in points], [m.value for *_, m in points],
        [m.ci.low if m.ci else None for *_, m in points],
        [m.ci.high if m.ci else None for *_, m in points],
        labels=[sae for sae, *_ in points], key="sae",
    )  # fmt: skip
    others = [layer for board in _boards(material) for layer in _of_board(board, metric)]
    axes = Axis("features that fire, L0", log=True), Axis(FRONTIERS[metric], log=True)
    return Chart(*axes, (*others, own), size_of(cases), interval_of(cases))


def _boards(material: Material) -> list[Board]:
    """Return the boards of the run's models, hooks, tokens and noise."""
    hooks = {sae.hook for sae in material.run.saes}
    bases = {case.basis for case in material.run.cases if case.basis}
    same = {(basis.model, basis.dtype, basis.dataset, basis.seed) for basis in bases}
    return [
        board
        for board in (material.leaderboard.boards if material.leaderboard else ())
        if board.hook in hooks
        and (board.model.weights_sha256, board.model.dtype, board.dataset.fingerprint, board.seed)
        in same
    ]


def _of_board(board: Board, metric: str) -> Iterator[Layer]:
    points = []
    for each in board.rows:
        l0 = each.scores.get(CASES[SPARSITY], {}).get(SPARSITY)
        score = each.scores.get(CASES[metric], {}).get(metric)
        if l0 and score and l0.value and score.value:
            points.append((each.sae, l0.value, score.value))
    if points:
        names, x, y = zip(*points, strict=True)
        yield Layer(f"leaderboard, {board.hook}", Form.DOTS, x, y, labels=names, faint=True)


def _density(histogram: dict[str, Any], case: CaseResult) -> Chart:
    layer = steps("features", histogram, key="sae")
    n = f"{size_of([case])}; {histogram['dead']} features never fire"
    axes = Axis("share of tokens", log=True), Axis("features")
    return Chart(*axes, (layer,), n, "counts, no interval")


def _cost(material: Material) -> Iterator[Figure]:
    if material.run.cost:
        yield Figure(
            "cost-stages",
            "Where the time went",
            "Seconds of each stage of each measurement, for all SAEs that shared it.",
            (View(_stages(material.run)),),
        )
    cases = [case for case in material.run.cases_about("cost") if case.metrics]
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


def _cost_tables(material: Material) -> Iterator[Table]:
    if material.run.cost:
        values = numbers("SAEs", "tokens", "seconds", "tokens/s", "peak memory, MB")
        columns = (*texts("measured on", "model"), *values)
        rows = tuple(map(_cost_row, material.run.cost))
        yield Table("cost-table", "Every measurement", columns, rows)


def _cost_row(cost: Cost) -> Row:
    seconds = sum(cost.seconds.values())
    speed = cost.tokens / seconds if seconds else 0.0
    values = (len(cost.saes), cost.tokens, seconds, speed, cost.peak_memory_bytes / 1e6)
    return row(cost.measured_on, cost.model, *(number(n, ",.4g") for n in values))


SECTIONS = (
    Section(
        "sparsity",
        "Sparsity",
        "How many features fire, and what faithfulness do they buy?",
        90,
        _sparsity,
    ),
    Section("cost", "Cost", "What did judging take?", 100, _cost, _cost_tables),
)
