"""Shrinkage: whether the SAE's output is systematically shorter than the activation.

Source: docs/metrics.md (shrinkage); Wright & Sharkey 2024, "Addressing feature suppression in
SAEs".
"""

from typing import TYPE_CHECKING

from saebench.properties.base import Findings, MetricSpec, Params, Property, evaluate, mean_of
from saebench.records.metric import Direction

if TYPE_CHECKING:
    from saebench.substitution.measurement import Measurement

METRICS = (
    MetricSpec(
        "shrinkage.l2_ratio",
        "×",
        Direction.TARGET,
        mean_of("norm_ratio"),
        ("norm_ratio",),
        target=1.0,
    ),
    # arXiv 2404.16014, eq. 10: below 1, a longer output would fit better.
    MetricSpec(
        "shrinkage.reconstruction_bias",
        "×",
        Direction.TARGET,
        lambda sums: sums["squared_output"] / sums["inner_product"],
        ("squared_output", "inner_product"),
        target=1.0,
    ),
)


def _interventions(_: Params) -> tuple[str, ...]:
    return ()


def _findings(measurement: "Measurement", _: Params) -> Findings:
    metrics = tuple(evaluate(spec, measurement) for spec in METRICS)
    curve = measurement.sums.curve("norm_ratio", per="n.scored")
    return Findings(metrics, {"l2_ratio_by_position": curve})


PROPERTY = Property(
    "shrinkage",
    "length of the SAE's output against the activation's",
    METRICS,
    _interventions,
    _findings,
)
