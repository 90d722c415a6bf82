"""Measurement cache: each SAE or pair is measured once for each experiment."""

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
from saebench.measures.state import WithPeers
from saebench.progress import ProgressBar, no_progress
from saebench.properties import find_property
from saebench.records.case import CaseRequest
from saebench.statistics.levels import Look, looks

if TYPE_CHECKING:
    from saebench.experiments.bench import Bench
    from saebench.judging.cases import Needs

Key = tuple[str, Experiment]
"""A measurement's key: the name of the SAE or pair, and the experiment."""

BATCH_SIZES = (3, 8)  # of the two re-measurements: their matrix products sum in different orders


class Runner(Protocol):
    """Runs experiments: in this process, in rounds, or in shards."""

    def run(
        self, bench: "Bench", experiment: Experiment, targets: Targets, *, progress: ProgressBar
    ) -> Results:
        """Return each target's measurement or failure."""
        ...


class InProcess:
    """Runs experiments in this process, on all sequences at once."""

    def run(
        self, bench: "Bench", experiment: Experiment, targets: Targets, *, progress: ProgressBar
    ) -> Results:
        """Return each target's measurement or failure."""
        return experiment.on(bench).measure(targets, progress=progress)


class Measurements:
    """Runs each experiment when a case first reads it, for all announced cases at once.

    Args:
        needs: the experiment and parameters of each case.
        interventions: returns a case's interventions, including those that rules need.
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
        """Set the cases whose needs are measured together."""
        self._requests = requests

    def of(self, request: CaseRequest, bench: "Bench", *, progress: ProgressBar) -> Any:
        """Return the measurement that a case reads, or its failure."""
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
        absent = [peer for peer in request.peers if not bench.has([peer])]
        left_out |= dict.fromkeys(absent, "measured on other tokens")
        return WithPeers(own, measured, left_out)

    def remeasure(self, request: CaseRequest, bench: "Bench") -> tuple[Any, Any] | None:
        """Measure a case's first sequences again, in batches of two different sizes.

        Returns:
            Both measurements; None if the case has none.
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
        """Yield an SAE's measurements that have sums; a pair's belong to its second SAE."""
        for key, each in self._results.items():
            if hasattr(each, "table") and getattr(each, "ids", key[:1])[-1] == sae:
                yield key, each

    def path(self, sae: str) -> str:
        """Return how the model was run with an SAE, on the run's sequences if possible."""
        paths: dict[Experiment, str] = {}
        for (name, experiment), each in self._results.items():
            path = getattr(each, "path", None)
            if path is not None and sae in getattr(each, "ids", (name,)):
                paths.setdefault(experiment, path)
        return paths.get(SEQUENCES, next(iter(paths.values()), "not measured"))

    def _remeasured_of(
        self, request: CaseRequest, bench: "Bench", name: str
    ) -> tuple[Any, Any] | None:
        """Return both re-measurements of an SAE or pair, made once for all cases."""
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
        """Yield all targets on the bench of the experiment that a case reads."""
        cases = list(self._same_experiment(request))
        if self._needs.experiment(request).of_pairs:
            by_id = {subject.id: subject for subject in bench.subjects}
            for pair in dict.fromkeys(r.subjects for r in cases if bench.has(r.subjects)):
                yield Target(tuple(by_id[sae] for sae in pair))
            return
        needed = {sae for each in cases for sae in each.needs}
        for subject in bench.subjects:
            if subject.id in needed:
                own = [each for each in cases if subject.id in each.needs]
                names = dict.fromkeys(n for each in own for n in self._interventions(each))
                declared = [find_property(each.property_name) for each in own]
                keep = dict.fromkeys(channel for each in declared for channel in each.keeps)
                probes = dict.fromkeys(probe for each in declared for probe in each.probes)
                yield Target((subject,), tuple(names), tuple(keep), tuple(probes))

    def _same_experiment(self, request: CaseRequest) -> Iterator[CaseRequest]:
        """Yield the cases of this process that read the same experiment as a case."""
        experiment, share = self._needs.experiment(request), self._share(request)
        for other in self._requests:
            if self._needs.experiment(other) == experiment and self._share(other) == share:
                yield other

    def _share(self, request: CaseRequest) -> int | None:
        return self.shares.get(request.subjects[0])


IsDecided = Callable[["Bench", str, Experiment, Any, Look], bool]


class Rounds:
    """Runs experiments in rounds: 32 sequences, then each time as many as before.

    An SAE is finished when all gates that read its measurement are decided. If a case reads several
    SAEs side by side, all of them continue until each is. The sequences that are measured are the
    first ones of the run, with the same values as in a run that does not stop early.

    Args:
        is_decided: returns whether a measurement decides all gates about an SAE, at a look.
        reads_several: returns whether a case reads several SAEs' results of an experiment.
    """

    def __init__(self, is_decided: IsDecided, reads_several: Callable[[Experiment], bool]) -> None:
        self._is_decided = is_decided
        self._reads_several = reads_several
        self._ended: dict[Key, Look] = {}

    def look(self, name: str, experiment: Experiment) -> Look | None:
        """Return the look at which a measurement stopped; None if it was not made in rounds."""
        return self._ended.get((name, experiment))

    def run(
        self, bench: "Bench", experiment: Experiment, targets: Targets, *, progress: ProgressBar
    ) -> Results:
        """Return each target's measurement or failure, of as many sequences as were needed."""
        extent = experiment.on(bench).extent(targets)
        if not (extent.is_divided and experiment.stops_early):
            return experiment.on(bench).measure(targets, progress=progress)
        parts: dict[str, list[Results]] = {target.name: [] for target in targets}
        merged, start, left = Results(), 0, list(targets)
        for look in looks(extent.count):
            part = bench.within(slice(start, look.sequences))
            new = experiment.on(part).measure(left, progress=progress)
            bench.costs += part.costs
            for target in left:
                parts[target.name].append(new.only(target.name))
                merged |= InOrder(parts[target.name]).whole()
                self._ended[target.name, experiment] = look
            start = look.sequences
            left = self._undecided(bench, experiment, left, merged, look)
            if not left:
                break
        return merged

    def _undecided(
        self,
        bench: "Bench",
        experiment: Experiment,
        targets: Sequence[Target],
        results: Results,
        look: Look,
    ) -> list[Target]:
        """Return the targets that need more sequences."""
        measured = [t for t in targets if t.name in results.measurements]
        undecided = [
            t
            for t in measured
            if not self._is_decided(bench, t.name, experiment, results[t.name], look)
        ]
        return measured if undecided and self._reads_several(experiment) else undecided
