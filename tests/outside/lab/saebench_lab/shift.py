"""How far the SAE moves the model's last hidden state: a property with a channel of its own."""

from collections.abc import Mapping
from typing import Any

from saebench.measures.names import Probe
from saebench.properties.base import Findings, MetricSpec, Property, evaluate, mean_of
from saebench.records.metric import Direction

SHIFT = Probe("hidden_shift", "saebench_lab.probes:hidden_shift")
NORM = MetricSpec("shift.norm", "", Direction.LOWER, mean_of(SHIFT.channel), (SHIFT.channel,))


def _findings(measurement: Any, _: Mapping[str, Any]) -> Findings:
    return Findings((evaluate(NORM, measurement),))


PROPERTY = Property(
    "shift", "how far the last hidden state moves", (NORM,), lambda _: (), _findings,
    probes=(SHIFT,),
)  # fmt: skip
