"""Measures a bench in shards, wherever they are measured, and puts them together again."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saebench.data.tokens import token_text
from saebench.errors import StoreError
from saebench.experiments.base import Experiment, Results, Targets
from saebench.experiments.codec import decode
from saebench.experiments.in_order import InOrder
from saebench.options import Rerun
from saebench.progress import ProgressBar
from saebench.records.run import CaseResult, Cost
from saebench.scale.jobs import Job
from saebench.scale.shards import (
    Group,
    groups_of,
    identity,
    ranges_of,
    shard_key,
)
from saebench.scale.worker import corpus_key, is_needed
from saebench.scale.workplace import Crew, Workplace

if TYPE_CHECKING:
    from saebench.experiments.bench import Bench


class Sharing:
    """Measures benches in shards.

    Args:
        place: where.
        benches: the run's, loaded here.
    """

    def __init__(self, place: Workplace, benches: "Sequence[Bench]") -> None:
        self._place = place
        self._scale = place.scale
        self._directory = place.directory
        self._outcomes = place.outcomes
        self._threads = place.recipe.threads
        self._benches = tuple(benches)
        self._corpora: dict[str, Path] = {}
        self._groups: dict[tuple[str, Experiment], str] = {}

    def run(
        self, bench: "Bench", experiment: Experiment, targets: Targets, *, progress: ProgressBar
    ) -> Results:
        """Return each target's measurement, as the bench itself would."""
        if experiment.is_timed:
            self._place.dismiss()  # nothing else may run while something is timed
        number = self._benches.index(bench)
        results = Results()
        for group in groups_of(number, experiment, targets):
            results |= self._group(bench, group, progress)
        return results

    def note(
        self, case: CaseResult, read: Iterable[tuple[str, Experiment]], *, failed: bool
    ) -> None:
        """Keep in the run directory how a case ended, for ``--sae-rerun failed``.

        Args:
            case: as it was decided.
            read: the measurements that it was read from: whose, and on what.
            failed: whether it fails the run.

        Raises:
            StoreError: where it cannot be written.
        """
        groups = {self._groups[each] for each in read if each in self._groups}
        if groups and self._scale.run_dir is not None:
            self._outcomes.note(groups, case.id, case.verdict.value, failed=failed)

    def _group(self, bench: "Bench", group: Group, progress: ProgressBar) -> Results:
        """Return what a group's shards give together; one that is not divided is measured here."""
        measurer, targets = group.experiment.on(bench), group.targets(bench)
        extent = measurer.extent(targets)
        if not extent.is_divided:
            return measurer.measure(targets, progress=progress)
        sequences, width = extent.count, extent.width
        own = identity(bench, group, threads=self._threads)
        self._groups |= {
            (name, group.experiment): shard_key(own, (0, sequences)) for name in group.names
        }
        ranges = ranges_of(sequences, width, size=self._scale.shard_sequences)
        jobs = [Job(i, group, rows, own) for i, rows in enumerate(ranges)]
        keys = [shard_key(own, rows) for rows in ranges]
        self._discard_failed(bench, group, keys)
        label = f"{measurer.label(targets)} ({group.experiment}), {len(jobs)} shards"
        with progress(label, sequences * width) as advance:
            missing = [job for job, key in zip(jobs, keys, strict=True) if not self._kept(key)]
            first, last = zip(*ranges, strict=True)
            advance(width * (sequences - sum(last[j.number] - first[j.number] for j in missing)))
            for job in self._done(bench, missing, keys):
                advance(width * (last[job.number] - first[job.number]))
            return self._together(bench, jobs, keys)

    def _kept(self, key: str) -> bool:
        """True where a shard need not be measured; whether it is whole is seen when it is read."""
        if self._scale.rerun is Rerun.ALWAYS:
            return False
        if self._directory.lies_there(key):
            return True
        if self._scale.rerun is Rerun.NEVER:
            raise self._lacking(key)
        return False

    def _lacking(self, key: str) -> StoreError:
        return StoreError(
            f"--sae-rerun never: {self._directory.path} lacks the shard {key}; leave it out to "
            "measure what is missing"
        )

    def _discard_failed(self, bench: "Bench", group: Group, keys: Sequence[str]) -> None:
        """With ``--sae-rerun failed``, remove the shards that a failed case was read from.

        From then on they are missing: a run that is killed goes on, and does not begin anew.
        """
        name = self._groups[group.names[0], group.experiment]
        if self._scale.rerun is not Rerun.FAILED or not self._outcomes.failed(name):
            return
        if is_needed(bench, group):
            corpus = corpus_key(bench, group, threads=self._threads)
            if corpus not in self._corpora:  # else it was made in this run
                self._directory.discard(corpus)
        for key in keys:
            self._directory.discard(key)
        self._outcomes.forget(name)

    def _done(self, bench: "Bench", jobs: list[Job], keys: Sequence[str]) -> Iterator[Job]:
        """Do jobs, and give each when what it found is on disk."""
        if not jobs:
            return
        crew = self._place.crew(self._benches)
        if is_needed(bench, jobs[0].group):
            key = self._first_pass(bench, crew, jobs[0])
            jobs = [replace(job, corpus=key) for job in jobs]
        for job, payload in crew.run(jobs, self._corpora):
            self._directory.write(keys[job.number], payload)
            yield job

    def _first_pass(self, bench: "Bench", crew: Crew, job: Job) -> str:
        """Make sure that statistics of the corpus are there; return their name."""
        key = corpus_key(bench, job.group, threads=self._threads)
        if (
            self._scale.rerun is Rerun.ALWAYS
            and key not in self._corpora
            or (not self._directory.has(key))
        ):
            ((_, data),) = crew.run([replace(job, rows=None)], {})
            self._directory.write(key, data)
        self._corpora[key] = self._directory.file(key)
        return key

    def _together(self, bench: "Bench", jobs: Sequence[Job], keys: Sequence[str]) -> Results:
        """Read the shards in their order, each once, and add them up."""
        parts, costs = InOrder(), list[Cost]()
        for number, key in enumerate(keys):
            payload = self._directory.read(key)
            if payload is None:
                payload = self._again(bench, jobs[number:], keys)
            shard = decode(payload)
            parts.add(shard["results"])
            bench.data |= shard["data"]
            bench.parts |= shard["parts"]
            costs += shard["costs"]
        bench.costs += _added(costs)
        whole = parts.whole()
        with_text = {n: _with_text(each, bench) for n, each in whole.measurements.items()}
        return replace(whole, measurements=with_text)

    def _again(self, bench: "Bench", jobs: Sequence[Job], keys: Sequence[str]) -> bytes:
        """Measure the damaged shards of these again, all at once; return what the first holds."""
        first = keys[jobs[0].number]
        if self._scale.rerun is Rerun.NEVER:
            raise self._lacking(first)
        damaged = [job for job in jobs if not self._directory.has(keys[job.number])]
        for _ in self._done(bench, damaged, keys):
            pass
        payload = self._directory.read(first)
        if payload is None:
            raise StoreError(f"{self._directory.file(first)}: was altered during the run")
        return payload


def _added(costs: Iterable[Cost]) -> list[Cost]:
    """Return one cost of each kind: shards' seconds and tokens added up."""
    found: dict[tuple[str, tuple[str, ...]], Cost] = {}
    for cost in costs:
        key = (cost.measured_on, cost.saes)
        before = found.get(key)
        if before is not None:
            stages = dict.fromkeys([*before.seconds, *cost.seconds])
            seconds = {s: before.seconds.get(s, 0) + cost.seconds.get(s, 0) for s in stages}
            peaks = [c.peak_memory_bytes for c in (before, cost) if c.peak_memory_bytes]
            cost = replace(
                cost,
                tokens=before.tokens + cost.tokens,
                seconds=seconds,
                peak_memory_bytes=max(peaks, default=cost.peak_memory_bytes),
            )
        found[key] = cost
    return list(found.values())


def _with_text(found: Any, bench: "Bench") -> Any:
    """Give the tokens that were kept one by one their texts again."""
    tokens = getattr(found, "per_token", None)
    if tokens is None:
        return found
    text = partial(token_text, bench.host.tokenizer)
    return replace(found, per_token=replace(tokens, text=text))
