"""Baselines from a run: each SAE's cases, per-sequence sums and re-measurement noise."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saebench.errors import MeasurementError, NotApplicable, NotWritten, StoreError
from saebench.experiments.base import Experiment
from saebench.judging.cases import Needs
from saebench.judging.measuring import Measurements
from saebench.properties import find_property
from saebench.properties.base import MetricSpec, Params, Property
from saebench.records.case import CaseRequest
from saebench.records.case_result import CaseResult
from saebench.records.metric import CLUSTER
from saebench.statistics.bootstrap import Table
from saebench.statistics.linear import influences
from saebench.store.baselines import Measured, update_baseline

if TYPE_CHECKING:
    from saebench.experiments.bench import Bench
    from saebench.subjects.sae import Subject


@dataclass(frozen=True)
class RunBaselines:
    """What a run measured, for the baseline of each of its SAEs.

    Attributes:
        measurements: the run's measurement cache.
        needs: the experiment and parameters of each case.
        requests: the announced cases.
        cases: the decided cases.
    """

    measurements: Measurements
    needs: Needs
    requests: tuple[CaseRequest, ...]
    cases: tuple[CaseResult, ...]

    def of(self, subject: "Subject", bench: "Bench", *, remeasure: bool) -> Measured:
        """Return what an SAE's baseline stores; a pair belongs to its second SAE.

        Args:
            subject: the SAE.
            bench: its bench.
            remeasure: measure some sequences again to estimate re-measurement noise.
        """
        tables = {
            key: (self._table_key(bench, key[1], measurement), self._sums(measurement))
            for key, measurement in self.measurements.belonging_to(subject.id)
        }
        own = [r for r in self.requests if r.subjects[-1] == subject.id]
        measured_on = {r.id: (r.sae, self.needs.experiment(r)) for r in own}
        stored = {id for id, (_, experiment) in measured_on.items() if experiment.is_stored}
        noisy = [r for r in own if r.id in stored] if remeasure else []
        return Measured(
            sae=bench.describe(subject, path=self.measurements.path(subject.id)),
            model=bench.model,
            datasets=tuple(bench.data.values()),
            cases=tuple(case for case in self.cases if case.id in stored),
            tables=dict(tables.values()),
            table_of={c: tables[key][0] for c, key in measured_on.items() if key in tables},
            noise={r.id: self._noise(r, bench) for r in noisy},
        )

    def _noise(self, request: CaseRequest, bench: "Bench") -> Mapping[str, float]:
        """Return how much each of a case's metrics changes when it is measured again."""
        both = self.measurements.remeasure(request, bench)
        declared = find_property(request.property_name)
        return rerun_noise(declared, self.needs.params(request), *both) if both else {}

    def _sums(self, measurement: Any) -> dict[str, Any]:
        """Return the per-sequence sums that the cases' metrics are formulas of."""
        names = {case.property for case in self.cases}
        specs = [s for name in names for s in find_property(name).metrics]
        used = {CLUSTER} | {c for s in specs for c in (*s.channels, s.counts)}
        return {name: sums for name, sums in measurement.table().items() if name in used}

    def _table_key(self, bench: "Bench", experiment: Experiment, measurement: Any) -> str:
        data = bench.data_of(experiment, measurement)
        after = "".join(f",{sae}" for sae in getattr(measurement, "ids", ())[:-1])
        return f"{experiment}@{data.fingerprint[:8]}-{self.needs.settings.seed}{after}"


def rerun_noise(declared: Property, params: Params, one: Any, two: Any) -> Mapping[str, float]:
    """Return re-measurement noise: how much each metric differs between two measurements.

    Both are of the same sequences in batches of different sizes, and therefore use different matrix
    kernels: sums differ in their last bits, and comparisons of nearly equal numbers may change. As
    the differences of sequences may cancel by chance, the noise is the larger of the metric's
    difference and its standard deviation over sequences. With fewer sequences than the run has, it
    is an overestimate. For a metric that is not a formula of sums, such as a median or a rank
    correlation, it is the difference alone.

    Args:
        declared: the property.
        params: the case's parameters.
        one: a measurement, with those of its peers if the property reads them.
        two: the other measurement.
    """
    tables = [getattr(each, "own", each).table() for each in (one, two)]
    noise = dict(_of_values(declared, params, one, two))
    for spec in declared.metrics:
        used = (*spec.channels, spec.counts)
        if spec.formula is None or any(c not in table for c in used for table in tables):
            continue
        of_metric = _noise(spec, *({c: table[c] for c in used} for table in tables))
        if np.isfinite(of_metric):
            noise[spec.name] = of_metric
    return noise


def _noise(spec: MetricSpec, one: Table, two: Table) -> float:
    assert spec.formula is not None
    with np.errstate(all="ignore"):
        before, after = (
            float(spec.formula({c: np.asarray(v.sum()) for c, v in table.items()}))
            for table in (one, two)
        )
        difference = influences(spec.formula, two) - influences(spec.formula, one)
    return max(abs(after - before), float(np.sqrt(np.sum(np.square(difference)))))


def _of_values(declared: Property, params: Params, one: Any, two: Any) -> Mapping[str, float]:
    """Return the differences of the metrics that are not formulas of sums."""
    names = {spec.name for spec in declared.metrics if spec.formula is None}
    if not names:
        return {}
    try:
        before, after = (
            {m.name: m.value for m in declared.findings(each, params).metrics if m.name in names}
            for each in (one, two)
        )
    except (NotApplicable, MeasurementError):  # undefined on so few sequences
        return {}
    pairs = ((name, value, after.get(name)) for name, value in before.items())
    return {n: abs(b - a) for n, a, b in pairs if a is not None and b is not None}


@dataclass
class Updates:
    """The outcome of updating baselines.

    Attributes:
        lines: the report, for people.
        refused: True if the baseline of some SAE was refused.
        not_written: True if one could not be written.
    """

    lines: list[str] = field(default_factory=list)
    refused: bool = False
    not_written: bool = False


def update_all(root: Path, saes: Iterable[Measured], *, only_new: bool) -> Updates:
    """Store each SAE's baseline, and report what changed; if one is refused, the others are stored.

    Args:
        root: the baselines directory.
        saes: what each SAE's baseline stores.
        only_new: do not change cases that are stored already.
    """
    updates = Updates([f"baselines in {root}:"])
    for measured in saes:
        try:
            changes = update_baseline(root, measured, only_new=only_new)
        except StoreError as error:
            updates.lines.append(f"ERROR: {error}")
            updates.refused = True
            updates.not_written |= isinstance(error, NotWritten)
            continue
        gated = {gate.metric for case in measured.cases for gate in case.gates}
        reported = [c for c in changes if c.metric in gated]
        updates.lines += [f"{measured.sae.id}: {len(changes)} metrics stored"]
        updates.lines += [
            f"  {c.metric}: {_number_of(c.before)} → {_number_of(c.after)}" for c in reported
        ]
    return updates


def _number_of(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
