"""What a run leaves of each SAE for its baseline: cases, per-sequence sums, and their noise."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from saebench.judging.cases import CaseRequest
from saebench.judging.measuring import Measurements
from saebench.judging.needs import Needs
from saebench.judging.rerun import rerun_noise
from saebench.properties import find_property
from saebench.properties.base import CONTROLS, COST, Source
from saebench.results import CLUSTER, CaseResult
from saebench.store.baselines import Measured

if TYPE_CHECKING:
    from saebench.judging.bench import Bench
    from saebench.subjects.sae import Subject

# Another machine's times are nothing to hold these against, and controls are made anew in every
# run.
LEFT_OUT = (COST, CONTROLS)


@dataclass(frozen=True)
class Keeping:
    """What was asked and found, of which each SAE's part is kept.

    Attributes:
        measurements: of the run.
        needs: says what cases are measured on.
        requests: the announced cases.
        cases: those that were decided.
    """

    measurements: Measurements
    needs: Needs
    requests: tuple[CaseRequest, ...]
    cases: tuple[CaseResult, ...]

    def of(self, subject: "Subject", bench: "Bench", *, again: bool) -> Measured:
        """Return one SAE's part; a pair belongs to its second SAE.

        Args:
            subject: the SAE.
            bench: that it is on.
            again: measure some sequences again, to say what that changes.
        """
        made = {
            key: (self._table_key(bench, key[1], found), self._sums(found))
            for key, found in self.measurements.belonging_to(subject.id)
        }
        mine = [r for r in self.requests if r.subjects[-1] == subject.id]
        measured_on = {r.id: (r.sae, self.needs.source(r)) for r in mine}
        stored = {id for id, (_, source) in measured_on.items() if source not in LEFT_OUT}
        noisy = [r for r in mine if r.id in stored] if again else []
        return Measured(
            sae=bench.describe(subject, path=self.measurements.path(subject.id)),
            model=bench.model,
            datasets=tuple(bench.data.values()),
            cases=tuple(case for case in self.cases if case.id in stored),
            tables=dict(made.values()),
            table_of={c: made[key][0] for c, key in measured_on.items() if key in made},
            noise={r.id: self._noise(r, bench) for r in noisy},
        )

    def _noise(self, request: CaseRequest, bench: "Bench") -> Mapping[str, float]:
        """Return how much each of a case's metrics changes where it is measured again."""
        twice = self.measurements.twice(request, bench)
        declared = find_property(request.property_name)
        return rerun_noise(declared, self.needs.params(request), *twice) if twice else {}

    def _sums(self, measurement: Any) -> dict[str, Any]:
        """Return the per-sequence sums that the judged metrics are formulas of."""
        names = {case.property for case in self.cases}
        specs = [s for name in names for s in find_property(name).metrics]
        used = {CLUSTER} | {c for s in specs for c in (*s.channels, s.counts)}
        return {name: sums for name, sums in measurement.table().items() if name in used}

    def _table_key(self, bench: "Bench", source: Source, measurement: Any) -> str:
        data = bench.data_of(source, measurement)
        after = "".join(f",{sae}" for sae in getattr(measurement, "ids", ())[:-1])
        return f"{source}@{data.fingerprint[:8]}-{self.needs.settings.seed}{after}"
