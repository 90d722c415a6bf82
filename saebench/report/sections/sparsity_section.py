"""Sparsity: features that fire, and what faithfulness they buy."""

from collections.abc import Iterator
from typing import Any

from saebench.records.boards import Board
from saebench.records.ranking import CASES, SPARSITY
from saebench.records.run import CaseResult, Run
from saebench.report.charts import Axis, Chart, Figure, Form, Layer, View
from saebench.report.queries import Material, cases_of, interval_of, metric_of, size_of, with_series
from saebench.report.sections import Section

FRONTIERS = {"fidelity.kl": "KL, nats", "kl_gap.ratio[eps_random]": "KL against ε-random, ×"}


def _figures(material: Material) -> Iterator[Figure]:
    cases = cases_of(material.run, "sparsity")
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
            View(_density(shown, case), sae)
            for sae, shown, case in with_series(cases, "density_histogram")
        ),
    )


def _points(run: Run, metric: str) -> list[tuple[str, Any, Any]]:
    """Return each SAE with its l0 and the metric."""
    found = []
    for case in cases_of(run, "sparsity"):
        l0 = metric_of(case, SPARSITY)
        others = [c for c in run.cases if c.sae == case.sae and c.kind == CASES[metric]]
        value = metric_of(others[0], metric) if others else None
        if l0 is not None and value is not None:
            found.append((case.sae, l0, value))
    return found


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
    rows = []
    for row in board.rows:
        l0 = row.scores.get(CASES[SPARSITY], {}).get(SPARSITY)
        score = row.scores.get(CASES[metric], {}).get(metric)
        if l0 and score and l0.value and score.value:
            rows.append((row.sae, l0.value, score.value))
    if rows:
        names, x, y = zip(*rows, strict=True)
        yield Layer(f"leaderboard, {board.hook}", Form.DOTS, x, y, labels=names, faint=True)


def _density(shown: dict[str, Any], case: CaseResult) -> Chart:
    layer = Layer("features", Form.STEPS, shown["edges"], shown["counts"], key="sae")
    n = f"{size_of([case])}; {shown['dead']} features never fire"
    axes = Axis("share of tokens", log=True), Axis("features")
    return Chart(*axes, (layer,), n, "counts, no interval")


SECTION = Section(
    "sparsity",
    "Sparsity",
    "How many features fire, and what faithfulness do they buy?",
    90,
    _figures,
)
