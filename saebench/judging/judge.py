"""The judge: measures what announced cases need, once, and decides each case."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saebench.compare.differences import SideCase
from saebench.errors import MeasurementError, NotApplicable
from saebench.experiments.base import CONTROLS, Experiment
from saebench.gates.rules import Role
from saebench.judging.cases import Needs, bench_of, case_request, find_bench, fingerprint
from saebench.judging.deciding import Baselines, MeasuredCase, gates_of, verdict_of
from saebench.judging.drifts import drift_series
from saebench.judging.measuring import Measurements, Rounds, Runner
from saebench.judging.record import About, record_of
from saebench.judging.rules_of_run import RunRules
from saebench.judging.run_baselines import RunBaselines
from saebench.measures.state import State, WithPeers
from saebench.options import OnInconclusive, Settings
from saebench.progress import ProgressBar, no_progress
from saebench.properties import Property, find_property
from saebench.properties.base import Findings
from saebench.records.case import CaseRequest, kind_of
from saebench.records.case_result import Basis, CaseResult, GateResult
from saebench.records.document_order import ORDER
from saebench.records.run import Run, Unjudged
from saebench.records.verdict import Verdict
from saebench.statistics.levels import LEVEL, Look, at_level
from saebench.store.baseline_source import open_baselines
from saebench.store.baselines import Measured
from saebench.text import percent

if TYPE_CHECKING:
    from saebench.experiments.bench import Bench
    from saebench.experiments.timing import Workload


class Judge:
    """Decides the cases of a run.

    Args:
        settings: the run's settings.
        argv: the command line, for the result file.

    Raises:
        ThresholdError: for rules that cannot be parsed.
    """

    def __init__(self, settings: Settings, *, argv: Sequence[str] = ()) -> None:
        self.settings = settings
        self._needs = Needs(settings)
        needs = self._needs
        self.rules = RunRules(settings, params=needs.params, experiment=needs.experiment)
        self._decided_cases: dict[str, CaseResult] = {}
        self._argv = tuple(argv)
        self._started = datetime.now(UTC)
        self._requests: tuple[CaseRequest, ...] = ()
        self._possible: tuple[CaseRequest, ...] = ()
        self._benches: tuple[Bench, ...] = ()
        self._baselines: Baselines | None = None
        self._rounds: Rounds | None = None
        self._measurements = Measurements(self._needs, self._interventions)

    @property
    def benches(self) -> "tuple[Bench, ...]":
        """The run's benches."""
        return self._benches

    @property
    def requests(self) -> tuple[CaseRequest, ...]:
        """The announced cases."""
        return self._requests

    @property
    def cases(self) -> list[CaseResult]:
        """The cases decided so far, each once: of one that was run again, the last result."""
        return list(self._decided_cases.values())

    @property
    def is_done(self) -> bool:
        """True once every announced case is decided."""
        return len(self.cases) == len(self._requests)

    def announce(self, requests: Iterable[CaseRequest]) -> None:
        """Announce all cases that will be decided, so that one measurement serves all of them.

        Raises:
            OptionError: for an unknown property, or parameters that it does not accept.
        """
        # A plugin that repeats tests announces a case several times.
        self._requests = tuple({request.id: request for request in requests}.values())
        for request in self._requests:
            self._interventions(request)
            self._needs.experiment(request)
        self._measurements.announce(self._requests + self._hidden())

    def consider(self, possible: Iterable[CaseRequest]) -> None:
        """Set the cases that there could be: a deciding one that is not judged is left out.

        Args:
            possible: every case of the run's SAEs, whether it was selected or not.
        """
        self._possible = tuple(possible)

    def check_rules_are_asked(self) -> None:
        """Check that an announced case can decide each rule of --sae-fail-on.

        Raises:
            OptionError: naming the rule and the property that would decide it.
        """
        self.rules.check_asked(self._requests)

    def adopt(
        self,
        benches: "Iterable[Bench]",
        *,
        runner: Runner | None = None,
        project: Path | None = None,
    ) -> None:
        """Set the prepared benches, and read the baselines of their SAEs.

        Args:
            benches: the run's benches, with everything loaded.
            runner: runs the experiments; if None, in this process and without rounds.
            project: a directory to search for baselines after the current one.

        Raises:
            OptionError: if a requested baseline is missing or damaged.
        """
        self._benches = tuple(benches)
        if self.settings.stop_early:
            self._rounds = runner = Rounds(self._is_settled, self._reads_several)
        if runner is not None:
            self._measurements.runner = runner
        spec = self.settings.baseline
        if spec is None:
            return
        self._baselines = Baselines()
        # A pair's baseline is its second SAE's: an SAE that is only first in pairs needs none.
        needed = {request.subjects[-1] for request in self._requests}
        with open_baselines(spec, directory=Path.cwd(), project=project) as source:
            for bench in self._benches:
                for subject in (s for s in bench.subjects if s.id in needed or not needed):
                    self._baselines.read(source, bench.describe(subject, path=""), bench.model)

    def share_out(self, shares: Mapping[str, int]) -> None:
        """Measure together only the SAEs of one share; the others are left to other processes.

        Args:
            shares: the share of each SAE, by id.
        """
        self._measurements.shares = dict(shares)

    def case(self, request: CaseRequest, *, progress: ProgressBar) -> CaseResult:
        """Decide one case, measuring what it needs unless that is done already."""
        started = time.perf_counter()
        outcome = self._decided(request, progress)
        result = CaseResult(
            id=request.id,
            sae=request.sae,
            property=request.property_name,
            params=request.recorded_params,
            duration_s=time.perf_counter() - started,
            **outcome,
        )
        self._decided_cases[result.id] = result
        return result

    def fails(self, case: CaseResult) -> bool:
        """True if a case fails the run."""
        tolerated = {Verdict.PASS, Verdict.NEW, Verdict.SKIPPED}
        if self.settings.inconclusive is OnInconclusive.WARN:
            tolerated.add(Verdict.INCONCLUSIVE)
        return case.verdict not in tolerated

    def reads(self, request: CaseRequest) -> Iterator[tuple[str, Experiment]]:
        """Yield the measurements that a case reads: names of SAEs or pairs, and experiments."""
        experiment = self._needs.experiment(request)
        yield from ((name, experiment) for name in (request.sae, *request.peers))
        if self.rules.needs_controls(request):
            yield request.sae, CONTROLS

    def measured(self, *, remeasure: bool = False) -> Iterator[Measured]:
        """Yield each SAE's cases and per-sequence sums, for its baseline.

        A pair belongs to its second SAE.

        Args:
            remeasure: measure some sequences again to estimate re-measurement noise; this takes
                time.
        """
        baselines = RunBaselines(self._measurements, self._needs, self._requests, tuple(self.cases))
        for bench in self._benches:
            for subject in bench.subjects:
                yield baselines.of(subject, bench, remeasure=remeasure)

    def run(self, *, complete: bool) -> Run:
        """Return the run's record of the cases decided so far."""
        about = About(self._argv, self._started, self.settings)
        paths = self._measurements.path
        return record_of(
            about,
            self._benches,
            self.cases,
            path=paths,
            complete=complete,
            unjudged=self._unjudged(),
        )

    def _unjudged(self) -> tuple[Unjudged, ...]:
        """Return the deciding cases that were not judged."""
        judged = {case.id for case in self.cases}
        return tuple(
            Unjudged(request.id, request.sae, request.property_name)
            for request in self._possible
            if request.id not in judged
            and self.rules.decides(request, find_bench(self._benches, request))
        )

    def workload(self, sae: str) -> "Workload":
        """Return the workload of an SAE, which records the times that its cost cases read."""
        timed = (r for r in self._requests if self._needs.experiment(r).is_timed and r.sae == sae)
        request = next(timed)
        return self._measurements.of(
            request, bench_of(self._benches, request), progress=no_progress
        )

    def _decided(self, request: CaseRequest, progress: ProgressBar) -> dict[str, Any]:
        declared = find_property(request.property_name)
        try:
            bench = bench_of(self._benches, request)
            measurement = self._measurements.of(request, bench, progress=progress)
            if isinstance(measurement, NotApplicable):
                raise measurement
        except NotApplicable as error:
            return {"verdict": Verdict.SKIPPED, "reason": str(error), "fingerprint": ""}
        identity = self._fingerprint(request, declared, bench, measurement)
        basis = self._basis(bench, self._needs.experiment(request), measurement)
        look = self._rounds and self._rounds.look(request.sae, self._needs.experiment(request))
        try:
            if isinstance(measurement, MeasurementError):
                raise measurement
            with at_level(look.level if look else LEVEL):
                findings, gates = self._gated(request, bench, measurement, progress)
        except NotApplicable as error:
            skipped = {"verdict": Verdict.SKIPPED, "reason": str(error)}
            return skipped | {"fingerprint": identity, "basis": basis}
        except MeasurementError as error:
            text = f"{type(error).__name__}: {error}"
            return {
                "verdict": Verdict.ERROR,
                "reason": text,
                "error": text,
                "fingerprint": identity,
                "basis": basis,
            }
        verdict, reason = verdict_of(gates)
        experiment = self._needs.experiment(request)
        drifts = drift_series(
            self._deciding(request, bench, findings), measurement,
            bench=bench, experiment=experiment, sae=request.subjects[-1],
        )  # fmt: skip
        reason += _on_training_texts(bench, request) if verdict is Verdict.PASS else ""
        return {
            "verdict": verdict,
            "reason": reason,
            "fingerprint": identity,
            "metrics": findings.metrics,
            "gates": gates,
            "series": findings.series | _look_series(look, findings.series) | drifts,
            "basis": basis,
        }

    def _gated(
        self, request: CaseRequest, bench: "Bench", measurement: Any, progress: ProgressBar
    ) -> tuple[Findings, tuple[GateResult, ...]]:
        """Return a case's metrics and gates, with intervals of the current level.

        Raises:
            NotApplicable: if the property does not apply to this SAE.
            MeasurementError: if a metric cannot be computed.
        """
        _check(measurement)
        declared = find_property(request.property_name)
        table = measurement.table() if hasattr(measurement, "table") else None
        basis = self._basis(bench, self._needs.experiment(request), measurement)
        if declared.peers:
            measurement = self._measurements.with_peers(request, bench, measurement)
        findings = declared.findings(measurement, self._needs.params(request))
        metrics = {metric.name: metric for metric in findings.metrics}
        case = MeasuredCase(
            sae=request.subjects[-1],
            kind=kind_of(request.id, request.subjects),
            now=SideCase(basis, metrics, table, order=self._order(request, bench, measurement)),
            metrics=metrics,
            controls=lambda: self._with_controls(request, bench, progress),
        )
        return findings, gates_of(
            self.rules.of(request, bench),
            case,
            self._baselines,
            least=self.settings.least_documents,
        )

    def _is_settled(
        self, bench: "Bench", sae: str, experiment: Experiment, measurement: Any, look: Look
    ) -> bool:
        """Return whether all gates of the cases that read an SAE's measurement are decided."""
        about = (
            r for r in self._requests if r.sae == sae and self._needs.experiment(r) == experiment
        )
        return all(self._is_decided(r, bench, measurement, look) for r in about)

    def _is_decided(
        self, request: CaseRequest, bench: "Bench", measurement: Any, look: Look
    ) -> bool:
        if all(rule.role is Role.SECONDARY for rule in self.rules.of(request, bench)):
            return True
        if find_property(request.property_name).peers:
            return False  # it reads other SAEs too, whose measurements may be missing
        try:
            with at_level(look.level):
                _, gates = self._gated(request, bench, measurement, no_progress)
        except (NotApplicable, MeasurementError):
            return True
        return all(gate.secondary or gate.verdict is not Verdict.INCONCLUSIVE for gate in gates)

    def _reads_several(self, experiment: Experiment) -> bool:
        """Return whether some case reads several SAEs' results of an experiment side by side."""
        return any(
            request.peers and self._needs.experiment(request) == experiment
            for request in self._requests
        )

    def _hidden(self) -> tuple[CaseRequest, ...]:
        """Return requests for controls that rules need and no announced case measures."""
        needing = (r.sae for r in self._requests if self.rules.needs_controls(r))
        needed = [case_request(sae, str(CONTROLS)) for sae in dict.fromkeys(needing)]
        announced = {(r.sae, r.property_name) for r in self._requests}
        return tuple(r for r in needed if (r.sae, r.property_name) not in announced)

    def _with_controls(
        self, request: CaseRequest, bench: "Bench", progress: ProgressBar
    ) -> "WithPeers | Exception":
        controls = case_request(request.sae, str(CONTROLS))
        return self._measurements.of(controls, bench, progress=progress)

    def _fingerprint(
        self, request: CaseRequest, declared: Property, bench: "Bench", measurement: Any
    ) -> str:
        first, *others = (bench.describe(s, path="") for s in bench.read_by(request))
        experiment = self._needs.experiment(request)
        return fingerprint(
            declared,
            self._needs.params(request),
            seed=self.settings.seed,
            sae=first,
            model=bench.model,
            data=bench.data_of(experiment, measurement),
            others=others,
            experiment=experiment,
            sequences=self._stopped_at(request, experiment),
        )

    def _stopped_at(self, request: CaseRequest, experiment: Experiment) -> int | None:
        look = self._rounds and self._rounds.look(request.sae, experiment)
        return look.sequences if look and look.number < look.of else None

    def _basis(self, bench: "Bench", experiment: Experiment, measurement: Any) -> Basis:
        data = bench.data_of(experiment, measurement)
        model = bench.model
        return Basis(model.weights_sha256, model.dtype, data.fingerprint, self.settings.seed)

    def _deciding(self, request: CaseRequest, bench: "Bench", findings: Findings) -> Iterator[str]:
        """Yield the metrics that decide a case, those with a margin to a baseline too."""
        decides = {metric.name for metric in findings.metrics if metric.decides}
        for rule in self.rules.of(request, bench):
            if rule.role is Role.PRIMARY and rule.metric in decides:
                yield rule.metric

    def _order(self, request: CaseRequest, bench: "Bench", measurement: Any) -> str | None:
        data = bench.data_of(self._needs.experiment(request), measurement)
        return data.policies.get(ORDER)

    def _interventions(self, request: CaseRequest) -> tuple[str, ...]:
        """Return a case's interventions; for controls also those of rules that read them."""
        names = [*self._needs.interventions(request)]
        if self._needs.experiment(request) == CONTROLS:
            same_sae = (r for r in self._requests if r.sae == request.sae)
            for other in (r for r in same_sae if self.rules.needs_controls(r)):
                names += self._needs.interventions(other)
        return tuple(dict.fromkeys(names))


def _check(measurement: Any) -> None:
    """Refuse a measurement that no property may be judged by; times are none."""
    if isinstance(measurement, State):
        measurement.check()


def _on_training_texts(bench: "Bench", request: CaseRequest) -> str:
    """Return what a PASS must say where an SAE was trained on the judged texts."""
    overlaps = (bench.overlaps.get(sae) for sae in request.subjects)
    large = dict.fromkeys(each.sentence for each in overlaps if each and each.is_large)
    return "".join(f" {sentence}." for sentence in large)


def _look_series(look: Look | None, series: Mapping[str, Any]) -> dict[str, Any]:
    """Return the series that say at which look a case was decided."""
    if look is None:
        return {}
    sentence = (
        f"ended after {look.sequences} sequences, at look {look.number} of {look.of}; intervals "
        f"of {percent(look.level)} hold at all looks together with {percent(LEVEL)}"
    )
    return {"look": asdict(look), "sentences": [*series.get("sentences", ()), sentence]}
