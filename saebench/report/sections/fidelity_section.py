"""Fidelity: the model's predictions with the SAE's output in place of the activation."""

from collections.abc import Iterator

from saebench.records.run import CaseResult
from saebench.report.charts import Axis, Chart, Figure, Form, Layer, View
from saebench.report.queries import (
    NO_INTERVAL,
    Material,
    bars,
    cases_of,
    interval_of,
    sae_axis,
    size_of,
)
from saebench.report.sections import Section

SHARES = {
    "fidelity.ce_score": "cross-entropy recovered",
    "fidelity.kl_score": "KL recovered",
    "fidelity.explained_variance": "explained variance",
    "fidelity.top1_agreement": "same top token",
}
CURVES = {
    "kl_by_position": ("KL by position", "KL, nats"),
    "mse_by_position": ("Squared error by position", "‖e‖²"),
}


def _figures(material: Material) -> Iterator[Figure]:
    cases = [case for case in cases_of(material.run, "fidelity") if case.metrics]
    if not cases:
        return
    yield Figure(
        "fidelity-shares",
        "What survives the SAE",
        "1 is a perfect stand-in; 0 is as bad as deleting the activation.",
        (View(_shares(cases)),),
        main=True,
    )
    yield Figure(
        "ce-by-position",
        "Cross-entropy by position",
        "The model alone, and with the SAE in place: the gap between the lines is the damage.",
        tuple(View(_ce(case), case.sae) for case in cases if "ce_sae_by_position" in case.series),
    )
    for series, (title, axis) in CURVES.items():
        yield Figure(
            f"fidelity-{series.replace('_', '-')}",
            title,
            "Mean over documents at each position of the context.",
            tuple(
                View(_curve(case, series, axis), case.sae)
                for case in cases
                if series in case.series
            ),
        )


def _shares(cases: list[CaseResult]) -> Chart:
    layers = tuple(bars(name, cases, metric, form=Form.DOTS) for metric, name in SHARES.items())
    return Chart(sae_axis(cases), Axis("share"), layers, size_of(cases), interval_of(cases))


def _ce(case: CaseResult) -> Chart:
    layers = tuple(
        Layer(name, Form.LINE, list(range(len(curve))), curve)
        for name in ("clean", "sae")
        for curve in (case.series[f"ce_{name}_by_position"],)
    )
    axes = Axis("position"), Axis("CE, nats")
    return Chart(*axes, layers, size_of([case]), NO_INTERVAL)


def _curve(case: CaseResult, series: str, axis: str) -> Chart:
    curve = case.series[series]
    layer = Layer("sae", Form.LINE, list(range(len(curve))), curve)
    return Chart(Axis("position"), Axis(axis), (layer,), size_of([case]), NO_INTERVAL)


SECTION = Section(
    "fidelity",
    "Fidelity",
    "How much do the model's predictions change with the SAE's output in place?",
    10,
    _figures,
)
