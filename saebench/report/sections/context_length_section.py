"""Context length: what happens beyond the context that the SAE was trained on (seed 001)."""

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
)
from saebench.report.sections import Section

Curve = list[float | None]
QUANTITIES = {
    "ce_increase": "CE increase, nats",
    "kl": "KL, nats",
    "l0": "features that fire, L0",
    "l1": "L1 of the features",
    "mse": "‖x − x̂‖²",
    "norm": "‖x‖",
}
BINS = ("within", "C-2C", "2C-4C", "4C-8C")
SIGNED = "ce_increase"


def _figures(material: Material) -> Iterator[Figure]:
    cases = [case for case in cases_of(material.run, "context_length") if "bins" in case.series]
    if not cases:
        return
    yield Figure(
        "context-all",
        "Curves over the context, in bins that double",
        "Means over positions 1, 2–3, 4–7, 8–15 …: where a curve leaves its level, the SAE stops "
        "working. The line marks the training context.",
        tuple(View(_binned(cases, name), label=label) for name, label in QUANTITIES.items()),
        main=True,
    )
    yield Figure(
        "context-position",
        "Curves by position",
        "Thin: each position. Steps: bins that double. The line marks the training context.",
        tuple(
            View(_by_position(case, name), case.sae, label)
            for case in cases
            for name, label in QUANTITIES.items()
        ),
    )
    yield Figure(
        "context-bins",
        "Cross-entropy lost, within and beyond the training context",
        "C is the training context; each bin doubles the distance.",
        (View(_bars(cases)),),
        main=True,
    )


def doubling(curve: Curve) -> tuple[list[int], Curve]:
    """Return the edges of bins 1, 2-3, 4-7 … and the curve's mean in each.

    Example:
        >>> doubling([None, 1.0, 2.0, 4.0, 8.0])
        ([1, 2, 4, 5], [1.0, 3.0, 8.0])
    """
    edges = [1]
    while edges[-1] < len(curve):
        edges.append(min(2 * edges[-1], len(curve)))
    spans = [curve[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    return edges, [_mean([v for v in span if v is not None]) for span in spans]


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _curve(case: CaseResult, name: str) -> Curve:
    if name != SIGNED:
        return case.series[f"{name}_by_position"]
    pairs = zip(case.series["ce_clean_by_position"], case.series["ce_sae_by_position"], strict=True)
    return [None if a is None or b is None else b - a for a, b in pairs]


def _binned(cases: list[CaseResult], name: str) -> Chart:
    layers = []
    for case in cases:
        edges, means = doubling(_curve(case, name))
        middles = [(a * (b - 1)) ** 0.5 for a, b in zip(edges, edges[1:], strict=False)]
        layers.append(Layer(case.sae, Form.LINE, middles, means))
    return _chart(cases, name, tuple(layers))


def _by_position(case: CaseResult, name: str) -> Chart:
    curve = _curve(case, name)
    edges, means = doubling(curve)
    thin = Layer("each position", Form.LINE, list(range(len(curve))), curve, faint=True)
    return _chart([case], name, (thin, Layer("bins", Form.STEPS, edges, means, key="sae")))


def _chart(cases: list[CaseResult], name: str, layers: tuple[Layer, ...]) -> Chart:
    contexts = sorted({case.series["bins"][0][1] for case in cases})
    marks = tuple(Mark("x", float(c), f"training context {c}") for c in contexts)
    axes = Axis("position", log=True, log_base=2), Axis(QUANTITIES[name], log=name != SIGNED)
    return Chart(*axes, layers, size_of(cases), NO_INTERVAL, marks)


def _bars(cases: list[CaseResult]) -> Chart:
    names = {name: f"context_length.ce_increase[{name}]" for name in BINS}
    layers = tuple(bars(name, cases, metric) for name, metric in names.items())
    kept = tuple(layer for layer in layers if layer.x)
    axes = sae_axis(cases), Axis("CE increase, nats")
    return Chart(*axes, kept, size_of(cases), interval_of(cases))


SECTION = Section(
    "context_length",
    "Context length",
    "What happens beyond the context that the SAE was trained on?",
    50,
    _figures,
)
