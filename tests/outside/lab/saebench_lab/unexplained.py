"""The share of the activations' variance that reconstructions leave unexplained."""

from collections.abc import Mapping
from typing import Any

from saebench.properties.base import Findings, MetricSpec, Property, evaluate
from saebench.records.metric import Direction

VARIANCE = MetricSpec(
    "unexplained.variance",
    "share",
    Direction.LOWER,
    lambda sums: sums["squared_error"] / sums["squared_deviation"],
    ("squared_error", "squared_deviation"),
)


def _findings(measurement: Any, _: Mapping[str, Any]) -> Findings:
    return Findings((evaluate(VARIANCE, measurement),))


PROPERTY = Property(
    "unexplained",
    "variance that reconstructions leave unexplained",
    (VARIANCE,),
    lambda _: (),
    _findings,
)
