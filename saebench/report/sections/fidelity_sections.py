"""Fidelity, shrinkage, context length: predictions and lengths with the SAE's output in place.

Source:
    Anders & Bloom 2024 on the context that an SAE was trained on; Wright & Sharkey 2024 on
    feature suppression.
"""

from collections.abc import Iterator

from saebench.records.case_result import CaseResult
from saebench.report.charts import (
    NO_INTERVAL,
    Axis,
    Chart,
    Figure,
    Form,
    Layer,
    Mark,
    View,
    by_sae,
    curve,
    size_of,
    with_series,
)
from saebench.report.material import Material
from saebench.report.sections import Section

Curve = list[float | None]
SHARES = {
    "cross-entropy recovered": "fidelity.ce_score",
    "KL recovered": "fidelity.kl_score",
    "explained variance": "fidelity.explained_variance",
    "same top token": "fidelity.top1_agreement",
}
CURVES = {
    "kl_by_position": ("KL by position", "KL, nats"),
    "mse_by_position": ("Squared error by position", "‖e‖²"),
}
BY_POSITION = "Mean over documents at each position of the context."
RATIOS = {
    "‖x̂‖ / ‖x‖": "shrinkage.l2_ratio",
    "reconstruction bias": "shrinkage.reconstruction_bias",
}
RIGHT_LENGTH = (Mark("y", 1.0, "as long as it should be"),)
QUANTITIES = {
    "ce_increase": "CE increase, nats",
    "kl": "KL, nats",
    "l0": "features that fire, L0",
    "l1": "L1 of the features",
    "mse": "‖x − x̂‖²",
    "norm": "‖x‖",
}
BINS = {
    name: f"context_length.ce_increase[{name}]" for name in ("within", "C-2C", "2C-4C", "4C-8C")
}
SIGNED = "ce_increase"


def _fidelity(material: Material) -> Iterator[Figure]:
    cases = [case for case in material.run.cases_about("fidelity") if case.metrics]
    if not cases:
        return
    yield Figure(
        "fidelity-shares",
        "What survives the SAE",
        "1 is a perfect stand-in; 0 is as bad as deleting the activation.",
        (View(by_sae(cases, Axis("share"), SHARES)),),
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
            BY_POSITION,
            tuple(
                View(_curve(values, case, axis), sae)
                for sae, values, case in with_series(cases, series)
            ),
        )


def _shrinkage(material: Material) -> Iterator[Figure]:
    cases = [case for case in material.run.cases_about("shrinkage") if case.metrics]
    if not cases:
        return
    yield Figure(
        "shrinkage-ratios",
        "The length of the output",
        "Below 1 the SAE's output is too short: its features were suppressed in training.",
        (View(by_sae(cases, Axis("×"), RATIOS, marks=RIGHT_LENGTH)),),
        main=True,
    )
    yield Figure(
        "shrinkage-position",
        "The length of the output by position",
        BY_POSITION,
        tuple(
            View(_curve(values, case, "‖x̂‖ / ‖x‖, ×", RIGHT_LENGTH), sae)
            for sae, values, case in with_series(cases, "l2_ratio_by_position")
        ),
    )


def _ce(case: CaseResult) -> Chart:
    layers = tuple(curve(name, case.series[f"ce_{name}_by_position"]) for name in ("clean", "sae"))
    return Chart(Axis("position"), Axis("CE, nats"), layers, size_of([case]), NO_INTERVAL)


def _curve(values: Curve, case: CaseResult, axis: str, marks: tuple[Mark, ...] = ()) -> Chart:
    layers = (curve("sae", values),)
    return Chart(Axis("position"), Axis(axis), layers, size_of([case]), NO_INTERVAL, marks)


def _context_length(material: Material) -> Iterator[Figure]:
    cases = [case for case in material.run.cases_about("context_length") if "bins" in case.series]
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
        (View(by_sae(cases, Axis("CE increase, nats"), BINS, form=Form.BARS)),),
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


def _quantity(case: CaseResult, name: str) -> Curve:
    if name != SIGNED:
        return case.series[f"{name}_by_position"]
    pairs = zip(case.series["ce_clean_by_position"], case.series["ce_sae_by_position"], strict=True)
    return [None if a is None or b is None else b - a for a, b in pairs]


def _binned(cases: list[CaseResult], name: str) -> Chart:
    layers = []
    for case in cases:
        edges, means = doubling(_quantity(case, name))
        middles = [(a * (b - 1)) ** 0.5 for a, b in zip(edges, edges[1:], strict=False)]
        layers.append(Layer(case.sae, Form.LINE, middles, means))
    return _over_context(cases, name, tuple(layers))


def _by_position(case: CaseResult, name: str) -> Chart:
    values = _quantity(case, name)
    edges, means = doubling(values)
    thin = curve("each position", values, faint=True)
    bins = Layer("bins", Form.STEPS, edges, means, key="sae")
    return _over_context([case], name, (thin, bins))


def _over_context(cases: list[CaseResult], name: str, layers: tuple[Layer, ...]) -> Chart:
    contexts = sorted({case.series["bins"][0][1] for case in cases})
    marks = tuple(Mark("x", float(c), f"training context {c}") for c in contexts)
    axes = Axis("position", log=True, log_base=2), Axis(QUANTITIES[name], log=name != SIGNED)
    return Chart(*axes, layers, size_of(cases), NO_INTERVAL, marks)


SECTIONS = (
    Section(
        "fidelity",
        "Fidelity",
        "How much do the model's predictions change with the SAE's output in place?",
        10,
        _fidelity,
    ),
    Section(
        "context_length",
        "Context length",
        "What happens beyond the context that the SAE was trained on?",
        50,
        _context_length,
    ),
    Section(
        "shrinkage",
        "Shrinkage",
        "Is the SAE's output systematically too short?",
        85,
        _shrinkage,
    ),
)
