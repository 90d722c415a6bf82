"""Sharded measuring: a bench's experiments in shards, resumed from the run directory and merged."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saebench.data.tokens import token_text
from saebench.errors import OptionError, StoreError
from saebench.experiments.base import Experiment, Results, Targets
from saebench.experiments.codec import decode
from saebench.experiments.in_order import InOrder
from saebench.options import Rerun
from saebench.progress import ProgressBar
from saebench.records.case_result import CaseResult
from saebench.records.run import Cost
from saebench.scale.jobs import Job
from saebench.scale.shards import (
    Group,
    groups_of,
    identity,
    ranges_of,
    shard_key,
)
from saebench.scale.worker import corpus_key, is_needed
from saebench.scale.workplace import WorkerPool, Workplace

if TYPE_CHECKING:
    from saebench.experiments.bench import Bench


class Sharing:
    """Runs experiments in shards.

    Args:
        place: the run directory and the workers.
        benches: the run's benches, loaded in this process.
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
        """Return each target's measurement or failure."""
        if experiment.is_timed:
            self._place.stop_workers()  # nothing else may run while something is timed
        number = self._benches.index(bench)
        results = Results()
        for group in groups_of(number, experiment, targets):
            results |= self._group(bench, group, progress)
        return results

    def note(
        self, case: CaseResult, read: Iterable[tuple[str, Experiment]], *, failed: bool
    ) -> None:
        """Record a case's outcome in the run directory, for ``--sae-rerun failed``.

        Args:
            case: the decided case.
            read: the measurements that it reads: names of SAEs or pairs, and experiments.
            failed: whether it fails the run.

        Raises:
            StoreError: if it cannot be written.
        """
        groups = {self._groups[each] for each in read if each in self._groups}
        if groups and self._scale.run_dir is not None:
            self._outcomes.note(groups, case.id, case.verdict.value, failed=failed)

    def _group(self, bench: "Bench", group: Group, progress: ProgressBar) -> Results:
        """Measure a group in shards; one that cannot be divided is measured in this process."""
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
            missing = [j for j, key in zip(jobs, keys, strict=True) if not self._is_finished(key)]
            first, last = zip(*ranges, strict=True)
            advance(width * (sequences - sum(last[j.number] - first[j.number] for j in missing)))
            for job in self._finish(bench, missing, keys):
                advance(width * (last[job.number] - first[job.number]))
            return self._merged(bench, jobs, keys)

    def _is_finished(self, key: str) -> bool:
        """True if a shard need not be measured; its checksum is verified when it is read."""
        if self._scale.rerun is Rerun.ALWAYS:
            return False
        if self._directory.lies_there(key):
            return True
        if self._scale.rerun is Rerun.NEVER:
            raise self._missing_shard(key)
        return False

    def _missing_shard(self, key: str) -> OptionError:
        return OptionError(
            f"--sae-rerun never: {self._directory.path} lacks the shard {key}; leave it out to "
            "measure what is missing"
        )

    def _discard_failed(self, bench: "Bench", group: Group, keys: Sequence[str]) -> None:
        """With ``--sae-rerun failed``, remove the shards of a group that a failed case reads.

        They are then missing: if this run is killed, the next one measures only the rest of them.
        """
        name = self._groups[group.names[0], group.experiment]
        if self._scale.rerun is not Rerun.FAILED or not self._outcomes.failed(name):
            return
        if is_needed(bench, group):
            corpus = corpus_key(bench, group, threads=self._threads)
            if corpus not in self._corpora:  # otherwise it was computed in this run
                self._directory.discard(corpus)
        for key in keys:
            self._directory.discard(key)
        self._outcomes.forget(name)

    def _finish(self, bench: "Bench", jobs: list[Job], keys: Sequence[str]) -> Iterator[Job]:
        """Run jobs, and yield each one once its shard is on disk."""
        if not jobs:
            return
        workers = self._place.workers(self._benches)
        if is_needed(bench, jobs[0].group):
            key = self._first_pass(bench, workers, jobs[0])
            jobs = [replace(job, corpus=key) for job in jobs]
        for job, payload in workers.run(jobs, self._corpora):
            self._directory.write(keys[job.number], payload)
            yield job

    def _first_pass(self, bench: "Bench", workers: WorkerPool, job: Job) -> str:
        """Compute the corpus statistics if they are missing; return their name."""
        key = corpus_key(bench, job.group, threads=self._threads)
        if (
            self._scale.rerun is Rerun.ALWAYS
            and key not in self._corpora
            or (not self._directory.has(key))
        ):
            ((_, data),) = workers.run([replace(job, rows=None)], {})
            self._directory.write(key, data)
        self._corpora[key] = self._directory.file(key)
        return key

    def _merged(self, bench: "Bench", jobs: Sequence[Job], keys: Sequence[str]) -> Results:
        """Read the shards in their order, each once, and merge them."""
        parts, costs = InOrder(), list[Cost]()
        for number, key in enumerate(keys):
            payload = self._directory.read(key)
            if payload is None:
                payload = self._remeasure_damaged(bench, jobs[number:], keys)
            shard = decode(payload)
            parts.add(shard["results"])
            bench.data |= shard["data"]
            bench.parts |= shard["parts"]
            costs += shard["costs"]
        bench.costs += _added(costs)
        results = parts.whole()
        with_text = {n: _with_text(each, bench) for n, each in results.measurements.items()}
        return replace(results, measurements=with_text)

    def _remeasure_damaged(self, bench: "Bench", jobs: Sequence[Job], keys: Sequence[str]) -> bytes:
        """Measure the damaged shards among these again, and return the first one's content."""
        first = keys[jobs[0].number]
        if self._scale.rerun is Rerun.NEVER:
            raise self._missing_shard(first)
        damaged = [job for job in jobs if not self._directory.has(keys[job.number])]
        for _ in self._finish(bench, damaged, keys):
            pass
        payload = self._directory.read(first)
        if payload is None:
            raise StoreError(f"{self._directory.file(first)}: was altered during the run")
        return payload


def _added(costs: Iterable[Cost]) -> list[Cost]:
    """Return one cost for each experiment and SAEs: the sums of the shards' seconds and tokens."""
    total: dict[tuple[str, tuple[str, ...]], Cost] = {}
    for cost in costs:
        key = (cost.measured_on, cost.saes)
        before = total.get(key)
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
        total[key] = cost
    return list(total.values())


def _with_text(measurement: Any, bench: "Bench") -> Any:
    """Restore the function that returns a token's text, which shards do not contain."""
    tokens = getattr(measurement, "per_token", None)
    if tokens is None:
        return measurement
    text = partial(token_text, bench.host.tokenizer)
    return replace(measurement, per_token=replace(tokens, text=text))
