"""The cost of evaluating an SAE: tokens a second, memory, parameters."""

from typing import TYPE_CHECKING

from saebench.experiments.base import Timing
from saebench.properties.base import Findings, MetricSpec, Params, Property
from saebench.records.metric import Direction, Metric, SampleSize

if TYPE_CHECKING:
    from saebench.experiments.timing import Workload

PARTS = ("reconstruct", "core")
SPEED = {
    part: MetricSpec(
        f"cost.tokens_per_s[{part}]", "tokens/s", Direction.HIGHER, None, sampled=False
    )
    for part in PARTS
}
PARAMETERS = MetricSpec("cost.parameters", "parameters", Direction.LOWER, None, sampled=False)
MEMORY = MetricSpec("cost.peak_memory", "bytes", Direction.LOWER, None, sampled=False)


def _interventions(_: Params) -> tuple[str, ...]:
    return ()


def _findings(workload: "Workload", params: Params) -> Findings:
    part = params["part"]
    speed = workload.count / workload.seconds(part)
    values = ((SPEED[part], speed), (PARAMETERS, workload.parameters))
    metrics = [_metric(spec, float(value), workload) for spec, value in values]
    if part == "core":
        metrics.append(_metric(MEMORY, float(workload.peak_bytes), workload))
    return Findings(tuple(metrics), {"seconds": workload.rounds[part]})


def _metric(spec: MetricSpec, value: float, workload: "Workload") -> Metric:
    n = SampleSize(len(workload.tokens.ids), workload.count)
    return Metric(spec.name, spec.version, value, spec.unit, spec.direction, n)


PROPERTY = Property(
    "cost",
    "tokens a second of encode and decode and of the whole core, memory, parameters",
    (*SPEED.values(), PARAMETERS, MEMORY),
    _interventions,
    _findings,
    experiment=Timing(),
    defaults=(("part", "core"),),
)
