"""A property: named metrics computed from sums, with units, directions and versions."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from saebench.errors import NonFiniteValue, OptionError
from saebench.experiments.base import SEQUENCES, Experiment
from saebench.measures.names import Probe
from saebench.records.metric import Direction, Fallback, Interval, Metric, SampleSize
from saebench.statistics.bootstrap import Estimate, Formula, estimate
from saebench.statistics.clusters import chosen, independent

if TYPE_CHECKING:
    from saebench.options import Settings

Params = Mapping[str, Any]


class HasTable(Protocol):
    """A measurement with sums by channel and sequence."""

    def table(self) -> Mapping[str, np.ndarray]:
        """Return the per-sequence sums of every channel."""
        ...


@dataclass(frozen=True)
class MetricSpec:
    """A metric's definition; a changed definition gets a higher version.

    Attributes:
        name: ``property.metric``.
        unit: nats, share, ratio, …; "" for a count.
        direction: whether lower, higher or a target value is better.
        formula: the metric as a function of sums by channel; None if it is not one.
        channels: the channels that the formula reads.
        counts: the channel that counts the metric's tokens.
        version: of the definition.
        target: the best value, if the direction is a target.
        sampled: whether the value is an estimate from documents, so that a few of them decide
            nothing; False where it would be the same on any, or is a machine's.
    """

    name: str
    unit: str
    direction: Direction
    formula: Formula | None
    channels: tuple[str, ...] = ()
    counts: str = "n.scored"
    version: int = 1
    target: float | None = None
    sampled: bool = True


@dataclass(frozen=True)
class Findings:
    """A property's metrics and plot series for one measurement."""

    metrics: tuple[Metric, ...]
    series: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Property:
    """A faithfulness property.

    Attributes:
        name: as in docs/metrics.md.
        summary: one line for people.
        metrics: all metrics that it can report.
        interventions: the interventions that it needs, given its parameters.
        findings: computes its metrics and plot series from a measurement.
        experiment: the experiment that it reads, or a function that returns it from a case's
            parameters and the run's settings.
        defaults: default parameters; they are part of a case's id.
        keeps: what a measurement must store beyond sums: channels token by token, or ``ACTIVE``,
            the features that are active on each prompt.
        probes: channels that it needs beyond those of every pass, on whole sequences.
        peers: True if it reads the measurements of the model's other SAEs too: ``findings`` then
            takes a :class:`~saebench.substitution.measurement.WithPeers`, as for controls.
        cases: the parameters of each of its default cases.
        reported: returns the metrics that a case with these parameters reports; if None, all.
    """

    name: str
    summary: str
    metrics: tuple[MetricSpec, ...]
    interventions: Callable[[Params], Sequence[str]]
    findings: Callable[[Any, Params], Findings]
    experiment: "Experiment | Callable[[Params, Settings], Experiment]" = SEQUENCES
    defaults: tuple[tuple[str, Any], ...] = ()
    keeps: tuple[str, ...] = ()
    probes: tuple[Probe, ...] = ()
    peers: bool = False
    cases: tuple[Params, ...] = ({},)
    reported: Callable[[Params], Iterable[MetricSpec]] | None = None

    def experiment_of(self, params: Params, settings: "Settings") -> Experiment:
        """Return the experiment that a case with these parameters reads."""
        if isinstance(self.experiment, Experiment):
            return self.experiment
        return self.experiment(params, settings)

    def reads(self, experiment: type[Experiment]) -> bool:
        """True if every case of the property reads this kind of experiment."""
        return isinstance(self.experiment, experiment)

    def reports(self, metric: str, params: Params) -> bool:
        """True if a case with these parameters can report the metric."""
        specs = self.metrics if self.reported is None else self.reported(params)
        return any(spec.name == metric for spec in specs)


def evaluate(
    spec: MetricSpec,
    measurement: HasTable,
    *,
    note: str | None = None,
    **declared: Any,
) -> Metric:
    """Evaluate a metric's formula with its bootstrap confidence interval over sequences.

    Args:
        spec: the definition.
        measurement: provides the sums.
        note: why the metric is undefined for this measurement; its value is then None.
        declared: what the metric tells its gates: ``fallback``, ``if_undefined``, ``negligible``
            and ``decides`` of :class:`~saebench.records.metric.Metric`.

    Raises:
        NonFiniteValue: if the formula gives NaN or infinity and no note says why.
    """
    table = measurement.table()
    if spec.formula is None:
        raise ValueError(f"{spec.name} is not a formula of sums")
    used = chosen(table, (*spec.channels, spec.counts))
    n = size_of(table, spec.counts)
    if note is not None:
        return _metric(spec, n, note=note, **declared)
    result = estimate(spec.formula, used)
    if result.interval is None and not abs(result.value) < float("inf"):
        raise NonFiniteValue(f"{spec.name} is {result.value} on {n.tokens} tokens")
    return _metric(spec, n, value=result.value, ci=result.interval, **declared)


def plain(
    spec: MetricSpec,
    measurement: HasTable,
    value: float | None,
    *,
    ci: Interval | None = None,
    note: str | None = None,
) -> Metric:
    """Return a metric that is not a formula of sums; a note says why a value is None."""
    n = size_of(measurement.table(), spec.counts)
    return _metric(spec, n, value=value, ci=ci, note=note)


def undefined(
    spec: MetricSpec, measurement: HasTable, *, note: str, fallback: Fallback | None = None
) -> Metric:
    """Return a metric without a value: why it has none, and what a gate reads instead."""
    n = size_of(measurement.table(), spec.counts)
    return _metric(spec, n, note=note, fallback=fallback)


def size_of(table: Mapping[str, np.ndarray], counts: str) -> SampleSize:
    """Return a metric's sample size; sequences that repeat each other count as one.

    Args:
        table: per-sequence sums by channel.
        counts: the channel that counts the metric's tokens.
    """
    return SampleSize(independent(table), int(table[counts].sum()))


def estimated(
    spec: MetricSpec,
    result: Estimate,
    *,
    n: SampleSize,
    note: str | None = None,
    **declared: Any,
) -> Metric:
    """Return a metric from an estimate made elsewhere; with a note, the metric has no value.

    Raises:
        NonFiniteValue: if the value is NaN or infinite and no note says why.
    """
    if note is not None:
        return _metric(spec, n, note=note, **declared)
    if not abs(result.value) < float("inf"):
        raise NonFiniteValue(f"{spec.name} is {result.value} on {n.tokens} tokens")
    return _metric(spec, n, value=result.value, ci=result.interval, **declared)


def _metric(spec: MetricSpec, n: SampleSize, **values: Any) -> Metric:
    with_value: dict[str, Any] = {"value": None} | values
    return Metric(
        name=spec.name,
        version=spec.version,
        unit=spec.unit,
        direction=spec.direction,
        target=spec.target,
        n=n,
        **with_value,
    )


def mean_of(channel: str, *, per: str = "n.scored") -> Formula:
    """Return the formula of a pooled mean: a channel's sum divided by a count."""
    return lambda sums: sums[channel] / sums[per]


def position_of(params: Params, default: int) -> int:
    """Return the token position in a case's parameters.

    Raises:
        OptionError: if it is not a position.
    """
    position = params.get("position", default)
    if isinstance(position, bool) or not isinstance(position, int) or position < 0:
        raise OptionError(f"position: expected a whole number from 0 on, found {position!r}")
    return position
