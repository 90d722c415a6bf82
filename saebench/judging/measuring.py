"""The measurement cache: each SAE or pair is measured once for each experiment."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from saebench.experiments.base import (
    SEQUENCES,
    Experiment,
    Failure,
    Results,
    Target,
    Targets,
)
from saebench.experiments.in_order import InOrder
from saebench.progress import ProgressBar, no_progress
from saebench.properties import find_property
from saebench.records.case import CaseRequest
from saebench.statistics.levels import Look, looks
from saebench.substitution.measurement import WithPeers

if TYPE_CHECKING:
    from saebench.experiments.bench import Bench
    from saebench.judging.cases import Needs

Key = tuple[str, Experiment]
"""Whose measurement it is, an SAE's or a pair's, and of which experiment."""

BATCH_SIZES = (3, 8)  # for measuring again: matrix products then sum in other orders


class Runner(Protocol):
    """Runs experiments: in this process, in rounds, or in shards."""

    def run(
        self, bench: "Bench", experiment: Experiment, targets: Targets, *, progress: ProgressBar
    ) -> Results:
        """Return each target's measurement, or why there is none."""
        ...


class InProcess:
    """Runs experiments in this process, in one go."""

    def run(
        self, bench: "Bench", experiment: Experiment, targets: Targets, *, progress: ProgressBar
    ) -> Results:
        """Return each target's measurement, or why there is none."""
        return experiment.on(bench).measure(targets, progress=progress)


class Measurements:
    """Runs each experiment when a case first reads it, for all announced cases at once.

    Args:
        needs: which experiment and interventions a case needs.
        interventions: those that a case needs, with what rules add to them.
    """

    def __init__(
        self, needs: "Needs", interventions: Callable[[CaseRequest], tuple[str, ...]]
    ) -> None:
        self.runner: Runner = InProcess()
        self.shares: Mapping[str, int] = {}
        self._needs = needs
        self._interventions = interventions
        self._requests: tuple[CaseRequest, ...] = ()
        self._results: dict[Key, Any] = {}
        self._remeasured: dict[Key, tuple[Any, Any]] = {}

    def announce(self, requests: tuple[CaseRequest, ...]) -> None:
        """Take the cases that will be asked for: what they need is measured together."""
        self._requests = requests

    def of(self, request: CaseRequest, bench: "Bench", *, progress: ProgressBar) -> Any:
        """Return the measurement that a case reads, or why there is none."""
        experiment = self._needs.experiment(request)
        if (request.sae, experiment) not in self._results:
            targets = list(self._targets(bench, request))
            results = self.runner.run(bench, experiment, targets, progress=progress)
            self._results |= {(name, experiment): results[name] for name in results.names()}
        return self._results[request.sae, experiment]

    def with_peers(self, request: CaseRequest, bench: "Bench", own: Any) -> WithPeers:
        """Return an SAE's measurement with those of its peers."""
        experiment = self._needs.experiment(request)
        others = {s.id: self._results[s.id, experiment] for s in bench.read_by(request)[1:]}
        left_out = {n: str(each) for n, each in others.items() if isinstance(each, Failure)}
        measured = {n: each for n, each in others.items() if n not in left_out}
        apart = [peer for peer in request.peers if not bench.has([peer])]
        return WithPeers(own, measured, left_out | dict.fromkeys(apart, "measured on other tokens"))

    def remeasure(self, request: CaseRequest, bench: "Bench") -> tuple[Any, Any] | None:
        """Return what a case reads of its first sequences, measured in batches of two sizes.

        None where there is no measurement.
        """
        both = self._remeasured_of(request, bench, request.sae)
        if both is None or not find_property(request.property_name).peers:
            return both
        peers = {
            s.id: self._remeasured_of(request, bench, s.id) for s in bench.read_by(request)[1:]
        }
        others = {name: pair for name, pair in peers.items() if pair is not None}
        one, two = (
            WithPeers(both[i], {name: pair[i] for name, pair in others.items()}) for i in (0, 1)
        )
        return one, two

    def belonging_to(self, sae: str) -> Iterator[tuple[Key, Any]]:
        """Give the measurements with per-sequence sums of an SAE; a pair's are its second's."""
        for key, each in self._results.items():
            if hasattr(each, "table") and getattr(each, "ids", key[:1])[-1] == sae:
                yield key, each

    def path(self, sae: str) -> str:
        """Return how the model was run with an SAE: on whole sequences, where it was."""
        paths: dict[Experiment, str] = {}
        for (name, experiment), each in self._results.items():
            path = getattr(each, "path", None)
            if path is not None and sae in getattr(each, "ids", (name,)):
                paths.setdefault(experiment, path)
        return paths.get(SEQUENCES, next(iter(paths.values()), "not measured"))

    def _remeasured_of(
        self, request: CaseRequest, bench: "Bench", name: str
    ) -> tuple[Any, Any] | None:
        """Return both measurements of an SAE or a pair, made once for all cases that read them."""
        key = (name, self._needs.experiment(request))
        if key not in self._remeasured:
            if isinstance(self._results.get(key), Exception):
                return None
            one, two = (self._in_batches(bench, request, name, size) for size in BATCH_SIZES)
            self._remeasured[key] = (one, two)
        both = self._remeasured[key]
        return None if any(isinstance(each, Failure) for each in both) else both

    def _in_batches(self, bench: "Bench", request: CaseRequest, name: str, size: int) -> Any:
        experiment = self._needs.experiment(request)
        part = bench.within(slice(0, experiment.remeasured))
        part.settings = replace(part.settings, batch_size=size)
        targets = [t for t in self._targets(bench, request) if t.name == name]
        return experiment.on(part).measure(targets, progress=no_progress).finished()[name]

    def _targets(self, bench: "Bench", request: CaseRequest) -> Iterator[Target]:
        """Give everything on the bench that announced cases need of a case's experiment."""
        alike = list(self._alike(request))
        if self._needs.experiment(request).of_pairs:
            by_id = {subject.id: subject for subject in bench.subjects}
            for pair in dict.fromkeys(r.subjects for r in alike if bench.has(r.subjects)):
                yield Target(tuple(by_id[sae] for sae in pair))
            return
        needed = {sae for each in alike for sae in each.needs}
        for subject in bench.subjects:
            if subject.id in needed:
                mine = [each for each in alike if subject.id in each.needs]
                names = dict.fromkeys(n for each in mine for n in self._interventions(each))
                declared = [find_property(each.property_name) for each in mine]
                keep = dict.fromkeys(channel for each in declared for channel in each.keeps)
                probes = dict.fromkeys(probe for each in declared for probe in each.probes)
                yield Target((subject,), tuple(names), tuple(keep), tuple(probes))

    def _alike(self, request: CaseRequest) -> Iterator[CaseRequest]:
        """Give the cases of this process that read the same experiment."""
        experiment, share = self._needs.experiment(request), self._share(request)
        for other in self._requests:
            if self._needs.experiment(other) == experiment and self._share(other) == share:
                yield other

    def _share(self, request: CaseRequest) -> int | None:
        return self.shares.get(request.subjects[0])


IsDecided = Callable[["Bench", str, Experiment, Any, Look], bool]


class Rounds:
    """Runs experiments in rounds: 32 sequences, then as many again as there are.

    An SAE is done when all gates about it, of what is being measured, are decided; where some
    case reads several SAEs side by side, they go on together. What is measured is the first part
    of the whole run: its numbers are those that the whole run has there.

    Args:
        is_decided: whether a measurement decides all gates about an SAE, at a look.
        reads_several: whether some case reads several SAEs' results of an experiment.
    """

    def __init__(self, is_decided: IsDecided, reads_several: Callable[[Experiment], bool]) -> None:
        self._is_decided = is_decided
        self._reads_several = reads_several
        self._ended: dict[Key, Look] = {}

    def look(self, name: str, experiment: Experiment) -> Look | None:
        """Return the look at which a measurement ended; None where it was made in one go."""
        return self._ended.get((name, experiment))

    def run(
        self, bench: "Bench", experiment: Experiment, targets: Targets, *, progress: ProgressBar
    ) -> Results:
        """Return each target's measurement, as of a run of fewer sequences."""
        extent = experiment.on(bench).extent(targets)
        if not (extent.is_divided and experiment.stops_early):
            return experiment.on(bench).measure(targets, progress=progress)
        parts: dict[str, list[Results]] = {target.name: [] for target in targets}
        whole, start, left = Results(), 0, list(targets)
        for look in looks(extent.count):
            part = bench.within(slice(start, look.sequences))
            new = experiment.on(part).measure(left, progress=progress)
            bench.costs += part.costs
            for target in left:
                parts[target.name].append(new.only(target.name))
                whole |= InOrder(parts[target.name]).whole()
                self._ended[target.name, experiment] = look
            start = look.sequences
            left = self._undecided(bench, experiment, left, whole, look)
            if not left:
                break
        return whole

    def _undecided(
        self,
        bench: "Bench",
        experiment: Experiment,
        targets: Sequence[Target],
        results: Results,
        look: Look,
    ) -> list[Target]:
        """Return what has to be measured further."""
        measured = [t for t in targets if t.name in results.measurements]
        undecided = [
            t
            for t in measured
            if not self._is_decided(bench, t.name, experiment, results[t.name], look)
        ]
        return measured if undecided and self._reads_several(experiment) else undecided
