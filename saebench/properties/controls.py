"""Controls: whether the metrics tell a trained SAE from negative controls made of it.

Source: docs/metrics.md (controls).
"""

from typing import TYPE_CHECKING

import numpy as np

from saebench.experiments.base import CONTROLS
from saebench.measures.names import CURRENT_TOKEN
from saebench.properties import fidelity, kl_gap, shrinkage, sparsity
from saebench.properties.base import (
    Findings,
    MetricSpec,
    Params,
    Property,
    estimated,
    mean_of,
    size_of,
)
from saebench.records.metric import Direction, Metric, SampleSize
from saebench.statistics.bootstrap import Estimate, estimate
from saebench.statistics.clusters import chosen
from saebench.statistics.paired import Combine, of_pair, pair

if TYPE_CHECKING:
    from saebench.measures.state import WithPeers
    from saebench.substitution.measurement import Measurement

NEGATIVE = ("permuted_decoder", "random_init", "l0_matched_random", "scaled")
IDENTITY = "identity"


def _metric_of(declared: Property, name: str) -> MetricSpec:
    return next(spec for spec in declared.metrics if spec.name == name)


# The metric that each property's gate reads, for properties measured on the same sequences.
PRIMARY = {
    "fidelity": fidelity.CONTEXT_RECOVERED,
    "kl_gap": _metric_of(kl_gap.PROPERTY, "kl_gap.ratio[eps_random]"),
    "shrinkage": _metric_of(shrinkage.PROPERTY, "shrinkage.l2_ratio"),
    "sparsity": _metric_of(sparsity.PROPERTY, "sparsity.l0"),
}
MARGIN = {
    (about, control): MetricSpec(
        f"controls.margin[{about}:{control}]", spec.unit, Direction.HIGHER, None, version=2
    )
    for about, spec in PRIMARY.items()
    for control in NEGATIVE
}
SEPARATED = {
    about: MetricSpec(f"controls.separated[{about}]", "share", Direction.HIGHER, None, version=2)
    for about in PRIMARY
}
# They check the harness: what they are does not depend on which documents are read.
IDENTITY_KL = MetricSpec("controls.identity_kl", "nats", Direction.LOWER, None, sampled=False)
IDENTITY_EV = MetricSpec(
    "controls.identity_explained_variance", "share", Direction.TARGET, None, target=1.0,
    sampled=False,
)  # fmt: skip
IDENTITY_FORMULAS = {
    IDENTITY_KL: mean_of("sae.kl"),
    IDENTITY_EV: fidelity.explained_variance,
}


def _interventions(_: Params) -> tuple[str, ...]:
    return ("sae", CURRENT_TOKEN, "eps_random")


def _findings(measured: "WithPeers", _: Params) -> Findings:
    measured.own.need("sae", "eps_random")
    metrics: list[Metric] = []
    sentences = [
        f"{name} could not be measured: {why.removeprefix(name + ': ')}"
        for name, why in measured.left_out.items()
    ]
    for about in PRIMARY:
        margins = [
            _margin(about, control, measured.own, measured.others[control])
            for control in NEGATIVE
            if control in measured.others
        ]
        metrics += [*margins, _separated(about, margins)]
        sentences += _sentences(about, margins)
    if IDENTITY in measured.others:
        metrics += [_of_identity(spec, measured.others[IDENTITY]) for spec in IDENTITY_FORMULAS]
    return Findings(tuple(metrics), {"sentences": sentences})


def _margin(about: str, control: str, own: "Measurement", other: "Measurement") -> Metric:
    """Return how much better the trained SAE is than the control, paired on the same sequences."""
    spec, declared = MARGIN[about, control], PRIMARY[about]
    channels = (*declared.channels, declared.counts)
    table = pair(*(chosen(each.table(), channels) for each in (own, other)))
    n = size_of(own.table(), declared.counts)
    assert declared.formula is not None
    result = estimate(of_pair(declared.formula, _how_much_better(declared)), table)
    note = next((why for m in (own, other) if (why := _undefined(about, m))), None)
    if note is None and not np.isfinite(result.value):
        note = f"undefined: {declared.name} is not finite for the trained SAE or for {control}"
    return estimated(spec, result, n=n, note=note)


def _undefined(about: str, measurement: "Measurement") -> str | None:
    """Return why a metric is undefined, with the same floor as its own property has."""
    if about == "fidelity":
        return fidelity.no_gain(measurement)
    if about != "kl_gap":
        return None
    total = measurement.sums.total
    mean = total("eps_random.kl") / total("n.scored")
    if mean >= kl_gap.FLOOR:
        return None
    return f"undefined: the mean KL of eps_random is {mean:.2g} nats, below {kl_gap.FLOOR:g}"


def _how_much_better(declared: MetricSpec) -> Combine:
    """Return the function of both values that is positive where the first is better."""

    def quality(value: np.ndarray) -> np.ndarray:
        if declared.direction is Direction.TARGET:
            return -np.abs(value - declared.target)
        return value if declared.direction is Direction.HIGHER else -value

    return lambda own, other: quality(own) - quality(other)


def _separated(about: str, margins: list[Metric]) -> Metric:
    """Return the share of controls with a margin whose interval lies above zero."""
    separated = [margin for margin in margins if margin.ci is not None and margin.ci.low > 0]
    note = None if margins else "undefined: no control could be made of this SAE"
    share = len(separated) / len(margins) if margins else float("nan")
    n = margins[0].n if margins else SampleSize(0, 0)
    return estimated(SEPARATED[about], Estimate(share, None), n=n, note=note)


def _sentences(about: str, margins: list[Metric]) -> list[str]:
    """Say which controls a metric cannot tell from the trained SAE, or scores better than it."""
    controls_by_relation: dict[str, list[str]] = {}
    for margin in margins:
        control = margin.name.rpartition(":")[2].rstrip("]")
        if margin.value is None:
            controls_by_relation.setdefault("cannot be compared with that of", []).append(control)
        elif margin.ci is None or margin.ci.low <= 0 <= margin.ci.high:
            controls_by_relation.setdefault("cannot tell it from", []).append(control)
        elif margin.ci.high < 0:
            controls_by_relation.setdefault("finds it worse than", []).append(control)
    name = PRIMARY[about].name
    return [f"{name} {says} {', '.join(which)}" for says, which in controls_by_relation.items()]


def _of_identity(spec: MetricSpec, identity: "Measurement") -> Metric:
    identity.need("sae")
    table = identity.table()
    used = chosen(table, ("sae.kl", "squared_error", "squared_deviation", "n.scored"))
    result = estimate(IDENTITY_FORMULAS[spec], used)
    return estimated(spec, result, n=size_of(table, "n.scored"))


PROPERTY = Property(
    "controls",
    "the trained SAE against permuted and random controls made of it, and against the identity",
    (*MARGIN.values(), *SEPARATED.values(), IDENTITY_KL, IDENTITY_EV),
    _interventions,
    _findings,
    CONTROLS,
)
