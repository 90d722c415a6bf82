"""What a property is: named metrics of sums, with units, directions and versions."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from saebench.errors import NonFiniteValue, OptionError
from saebench.experiments.base import SEQUENCES, Experiment
from saebench.measures.names import Probe
from saebench.records.run import Direction, Fallback, Interval, Metric, SampleSize
from saebench.statistics.bootstrap import Estimate, Formula, estimate
from saebench.statistics.clusters import chosen, independent

if TYPE_CHECKING:
    from saebench.options import Settings

Params = Mapping[str, Any]


class HasTable(Protocol):
    """A measurement: sums by channel and sequence."""

    def table(self) -> Mapping[str, np.ndarray]:
        """Return the per-sequence sums of every channel."""
        ...


@dataclass(frozen=True)
class MetricSpec:
    """A metric's definition: raise the version when it changes.

    Attributes:
        name: ``property.metric``.
        unit: nats, share, ratio, …; "" for a count.
        direction: which way is better.
        formula: the metric, of sums by channel; None for one that is not a formula of sums.
        channels: the channels that the formula reads.
        counts: the channel that counts the metric's tokens.
        version: of the definition.
        target: the best value, where the direction is a target.
    """

    name: str
    unit: str
    direction: Direction
    formula: Formula | None
    channels: tuple[str, ...] = ()
    counts: str = "n.scored"
    version: int = 1
    target: float | None = None


@dataclass(frozen=True)
class Findings:
    """What a property makes of a measurement."""

    metrics: tuple[Metric, ...]
    series: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Property:
    """A faithfulness property.

    Attributes:
        name: as in docs/metrics.md.
        summary: one line for people.
        metrics: everything it can report.
        interventions: what must be measured for it, given its parameters.
        findings: its metrics and plot series, from a measurement.
        experiment: the kind of measurement that it reads; or what says so, given a case's
            parameters and the run's settings.
        defaults: parameters that it has where none are given; they are part of a case's id.
        keeps: what is kept beyond sums: channels token by token, or ACTIVE, the features that
            are active on each prompt.
        probes: channels that it needs beyond those of every pass, on whole sequences.
        peers: it reads the measurements of the model's other SAEs too: ``findings`` then takes
            a :class:`~saebench.substitution.measurement.WithPeers`, as those of controls do.
        cases: the parameters of each of its usual cases.
        reported: which metrics a case with some parameters reports; all where None.
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
        """True where every case of the property reads this kind of experiment."""
        return isinstance(self.experiment, experiment)

    def reports(self, metric: str, params: Params) -> bool:
        """True where a case with these parameters can report the metric."""
        specs = self.metrics if self.reported is None else self.reported(params)
        return any(spec.name == metric for spec in specs)


def evaluate(
    spec: MetricSpec,
    measurement: HasTable,
    *,
    note: str | None = None,
    fallback: Fallback | None = None,
) -> Metric:
    """Return a metric's value with its interval over sequences.

    Args:
        spec: the definition.
        measurement: the sums.
        note: why the metric is undefined here; its value is then None.
        fallback: what a gate reads instead of an undefined metric.

    Raises:
        NonFiniteValue: where the formula gives NaN or infinity and no note says why.
    """
    table = measurement.table()
    if spec.formula is None:
        raise ValueError(f"{spec.name} has no formula of sums")
    used = chosen(table, (*spec.channels, spec.counts))
    n = size_of(table, spec.counts)
    if note is not None:
        return _metric(spec, n, note=note, fallback=fallback)
    found = estimate(spec.formula, used)
    if found.interval is None and not abs(found.value) < float("inf"):
        raise NonFiniteValue(f"{spec.name} is {found.value} on {n.tokens} tokens")
    return _metric(spec, n, value=found.value, ci=found.interval)


def plain(
    spec: MetricSpec,
    measurement: HasTable,
    value: float | None,
    *,
    ci: Interval | None = None,
    note: str | None = None,
) -> Metric:
    """Return a metric that is no formula of sums; with None for a value the note says why."""
    n = size_of(measurement.table(), spec.counts)
    return _metric(spec, n, value=value, ci=ci, note=note)


def size_of(table: Mapping[str, np.ndarray], counts: str) -> SampleSize:
    """Return how much data a table's metrics rest on; sequences that repeat each other are one.

    Args:
        table: per-sequence sums by channel.
        counts: the channel that counts the metric's tokens.
    """
    return SampleSize(independent(table), int(table[counts].sum()))


def estimated(
    spec: MetricSpec, found: Estimate, *, n: SampleSize, note: str | None = None
) -> Metric:
    """Return a metric that was estimated otherwise; where a note says why, it has no value.

    Raises:
        NonFiniteValue: where the value is NaN or infinite and no note says why.
    """
    if note is not None:
        return _metric(spec, n, note=note)
    if not abs(found.value) < float("inf"):
        raise NonFiniteValue(f"{spec.name} is {found.value} on {n.tokens} tokens")
    return _metric(spec, n, value=found.value, ci=found.interval)


def _metric(spec: MetricSpec, n: SampleSize, **values: Any) -> Metric:
    given: dict[str, Any] = {"value": None} | values
    return Metric(
        name=spec.name,
        version=spec.version,
        unit=spec.unit,
        direction=spec.direction,
        target=spec.target,
        n=n,
        **given,
    )


def mean_of(channel: str, *, per: str = "n.scored") -> Formula:
    """Return the formula of a pooled mean: a sum over a count."""
    return lambda sums: sums[channel] / sums[per]


def position_of(params: Params, default: int) -> int:
    """Return the position that a case's parameters give.

    Raises:
        OptionError: where it is no position.
    """
    position = params.get("position", default)
    if isinstance(position, bool) or not isinstance(position, int) or position < 0:
        raise OptionError(f"position: expected a whole number from 0 on, found {position!r}")
    return position
