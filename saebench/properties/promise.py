"""Promise: whether the SAE has the sparsity and explained variance that it is said to have."""

from typing import TYPE_CHECKING

from saebench.errors import NotApplicable, OptionError, nearest
from saebench.measures.names import promised
from saebench.properties.base import Findings, MetricSpec, Params, Property, evaluate
from saebench.properties.fidelity import explained_variance
from saebench.records.metric import Direction

if TYPE_CHECKING:
    import numpy as np

    from saebench.statistics.bootstrap import Table
    from saebench.substitution.measurement import Measurement

L0, EXPLAINED_VARIANCE = "l0", "explained_variance"
NOTICED = 0.05  # a smaller difference is not worth a sentence
STATED_BY = {
    L0: "metadata.l0, its k, or average_l0 in its path",
    EXPLAINED_VARIANCE: "metadata.explained_variance",
}
WORDS = {L0: "active features a token", EXPLAINED_VARIANCE: "of the variance explained"}


def _l0_ratio(sums: "Table") -> "np.ndarray":
    return sums["l0"] / sums[promised(L0)]


def _difference(sums: "Table") -> "np.ndarray":
    return explained_variance(sums) - sums[promised(EXPLAINED_VARIANCE)] / sums["n.scored"]


SPECS = {
    L0: MetricSpec(
        "promise.l0_ratio", "×", Direction.TARGET, _l0_ratio, ("l0", promised(L0)), target=1.0
    ),
    EXPLAINED_VARIANCE: MetricSpec(
        "promise.explained_variance_difference",
        "share",
        Direction.HIGHER,
        _difference,
        ("squared_error", "squared_deviation", promised(EXPLAINED_VARIANCE)),
    ),
}


def _figure(params: Params) -> str:
    """Return which figure a case is about: one that an SAE is not said to have is its own case.

    Raises:
        OptionError: if it is unknown.
    """
    chosen = params.get("of", L0)
    if chosen not in SPECS:
        raise OptionError(f"promise: unknown figure {chosen!r}{nearest(str(chosen), SPECS)}")
    return chosen


def _interventions(params: Params) -> tuple[str, ...]:
    _figure(params)
    return ()


def _reported(params: Params) -> tuple[MetricSpec, ...]:
    return (SPECS[_figure(params)],)


def _findings(measurement: "Measurement", params: Params) -> Findings:
    figure = _figure(params)
    if figure not in measurement.promises:
        raise NotApplicable(
            f"promise: nothing says which {figure.replace('_', ' ')} this SAE should have: "
            f"{STATED_BY[figure]}, or an entry in SAELens' registry"
        )
    sums, source = measurement.sums, measurement.promises[figure]
    metric = evaluate(SPECS[figure], measurement)
    value = sums.total(promised(figure)) / sums.total("n.scored")
    assert metric.value is not None
    measured = metric.value * value if figure == L0 else metric.value + value
    off = abs(metric.value - 1) if figure == L0 else -metric.value
    said = f"{source} says {value:.4g} {WORDS[figure]}, measured were {measured:.4g}"
    return Findings(
        (metric,),
        {"source": source, "promised": value, "measured": measured}
        | ({"sentences": [said]} if off > NOTICED else {}),
    )


PROPERTY = Property(
    "promise",
    "sparsity and explained variance against what the SAE's files or its release say",
    tuple(SPECS.values()),
    _interventions,
    _findings,
    defaults=(("of", L0),),
    cases=tuple({"of": figure} for figure in SPECS),
    reported=_reported,
)
