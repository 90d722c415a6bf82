"""Shrinkage: whether the output is systematically too short (seed 003)."""

from collections.abc import Iterator

from saebench.records.run import CaseResult
from saebench.report.charts import Axis, Chart, Figure, Form, Layer, Mark, View
from saebench.report.queries import (
    NO_INTERVAL,
    Material,
    bars,
    cases_of,
    interval_of,
    sae_axis,
    size_of,
    with_series,
)
from saebench.report.sections import Section

RATIOS = {
    "shrinkage.l2_ratio": "‖x̂‖ / ‖x‖",
    "shrinkage.reconstruction_bias": "reconstruction bias",
}
RIGHT = (Mark("y", 1.0, "as long as it should be"),)


def _figures(material: Material) -> Iterator[Figure]:
    cases = [case for case in cases_of(material.run, "shrinkage") if case.metrics]
    if not cases:
        return
    yield Figure(
        "shrinkage-ratios",
        "The length of the output",
        "Below 1 the SAE's output is too short: its features were suppressed in training.",
        (View(_ratios(cases)),),
        main=True,
    )
    yield Figure(
        "shrinkage-position",
        "The length of the output by position",
        "Mean over documents at each position of the context.",
        tuple(
            View(_curve(curve, case), sae)
            for sae, curve, case in with_series(cases, "l2_ratio_by_position")
        ),
    )


def _ratios(cases: list[CaseResult]) -> Chart:
    layers = tuple(bars(name, cases, metric, form=Form.DOTS) for metric, name in RATIOS.items())
    return Chart(sae_axis(cases), Axis("×"), layers, size_of(cases), interval_of(cases), RIGHT)


def _curve(curve: list[float | None], case: CaseResult) -> Chart:
    layer = Layer("sae", Form.LINE, list(range(len(curve))), curve)
    axes = Axis("position"), Axis("‖x̂‖ / ‖x‖, ×")
    return Chart(*axes, (layer,), size_of([case]), NO_INTERVAL, RIGHT)


SECTION = Section(
    "shrinkage",
    "Shrinkage",
    "Is the SAE's output systematically too short?",
    85,
    _figures,
)
