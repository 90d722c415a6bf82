"""What a property is: named metrics of sums, with units, directions and versions."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from saebench.errors import NonFiniteValue, OptionError
from saebench.records.run import Direction, Fallback, Interval, Metric, SampleSize
from saebench.statistics.bootstrap import Estimate, Formula, estimate
from saebench.statistics.clusters import chosen, independent

if TYPE_CHECKING:
    from saebench.options import Settings
    from saebench.substitution.measurement import Measurement

Params = Mapping[str, Any]

SEQUENCES = "sequences"
LONG = "long"
CLOZE = "cloze"
COST = "cost"
PAIRS = "pairs"
CONTROLS = "controls"
TAX = "tax"
ACTIVE = "active"


@dataclass(frozen=True)
class OneToken:
    """What is measured on: SEQUENCES, the token at one position of each substituted.

    Attributes:
        position: of the token.
        offsets: how many positions after it are read out too.
    """

    position: int
    offsets: int = 16

    def __str__(self) -> str:
        """Name it, for stored sums."""
        return f"one-token-{self.position}+{self.offsets}"


@dataclass(frozen=True)
class ManyDraws:
    """What is measured on: the first SEQUENCES, one token of each under many random errors.

    Attributes:
        position: of the token.
        draws: how many random errors.
        sequences: how many sequences.
    """

    position: int
    draws: int
    sequences: int

    def __str__(self) -> str:
        """Name it, for stored sums."""
        return f"draws-{self.position}x{self.draws}-of-{self.sequences}"


Source = str | OneToken | ManyDraws


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
class Among:
    """An SAE's measurement among others that were made on the same tokens.

    Attributes:
        own: the SAE's.
        others: the others', by name.
        left_out: why some of them could not be made, by name.
    """

    own: "Measurement"
    others: "Mapping[str, Measurement]"
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Property:
    """A faithfulness property.

    Attributes:
        name: as in METRICS.md.
        summary: one line for people.
        metrics: everything it can report.
        interventions: what must be measured for it, given its parameters.
        findings: its metrics and plot series, from a measurement.
        source: what it is measured on: SEQUENCES of the training context, LONG ones, CLOZE
            prompts, the sequences with PAIRS of SAEs, with an SAE's CONTROLS beside it, with a
            patched model's original for its TAX, or a batch that is timed for its COST.
        defaults: parameters that it has where none are given; they are part of a case's id.
        keeps: what is kept beyond sums: channels token by token, or ACTIVE, the features that
            are active on each prompt.
        peers: it reads the measurements of the model's other SAEs too: ``findings`` then takes
            an :class:`Among`, as those of CONTROLS do.
            prompts, OneToken or ManyDraws; or what says so, given a case's parameters.
        defaults: parameters that it has where none are given; they are part of a case's id.
        cases: the parameters of each of its usual cases.
        reported: which metrics a case with some parameters reports; all where None.
    """

    name: str
    summary: str
    metrics: tuple[MetricSpec, ...]
    interventions: Callable[[Params], Sequence[str]]
    findings: Callable[[Any, Params], Findings]
    source: "Source | Callable[[Params, Settings], Source]" = SEQUENCES
    defaults: tuple[tuple[str, Any], ...] = ()
    keeps: tuple[str, ...] = ()
    peers: bool = False
    cases: tuple[Params, ...] = ({},)
    reported: Callable[[Params], Iterable[MetricSpec]] | None = None

    def measured_on(self, params: Params, settings: "Settings") -> Source:
        """Return what a case with these parameters is measured on."""
        return self.source(params, settings) if callable(self.source) else self.source

    def reports(self, metric: str, params: Params) -> bool:
        """True where a case with these parameters can report the metric."""
        specs = self.metrics if self.reported is None else self.reported(params)
        return any(spec.name == metric for spec in specs)


def evaluate(
    spec: MetricSpec,
    measurement: HasTable,
    *,
    note: str | None = None,
    stand: Fallback | None = None,
) -> Metric:
    """Return a metric's value with its interval over sequences.

    Args:
        spec: the definition.
        measurement: the sums.
        note: why the metric is undefined here; its value is then None.
        stand: what a gate reads instead of an undefined metric.

    Raises:
        NonFiniteValue: where the formula gives NaN or infinity and no note says why.
    """
    table = measurement.table()
    if spec.formula is None:
        raise ValueError(f"{spec.name} has no formula of sums")
    used = chosen(table, (*spec.channels, spec.counts))
    n = size_of(table, spec.counts)
    if note is not None:
        return _metric(spec, n, note=note, fallback=stand)
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
