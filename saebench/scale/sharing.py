"""Measures a bench in shards, wherever they are measured, and puts them together again."""

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from saebench.data.tokens import token_text
from saebench.errors import StoreError
from saebench.judging.progress import ProgressBar
from saebench.properties.base import PAIRS, Source
from saebench.results import Cost
from saebench.scale.codec import decode
from saebench.scale.corpus import corpus_key, is_needed
from saebench.scale.joining import InOrder
from saebench.scale.options import EngineKind, Rerun, Scale
from saebench.scale.rundir import RunDirectory
from saebench.scale.shards import (
    Group,
    groups_of,
    identity,
    pair_group,
    ranges_of,
    shard_key,
)
from saebench.scale.worker import Job, Recipe, Worker

if TYPE_CHECKING:
    from saebench.judging.bench import Bench, Keep, Wanted


class Crew(Protocol):
    """Does jobs."""

    def run(self, jobs: Iterable[Job], corpora: Mapping[str, Path]) -> Iterator[tuple[Job, bytes]]:
        """Give each job with what it found, as they finish."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


class Sharing:
    """Measures benches in shards.

    Args:
        scale: how.
        recipe: what workers load.
        benches: the run's, loaded here.
    """

    def __init__(self, scale: Scale, recipe: Recipe, benches: "Sequence[Bench]") -> None:
        self._scale = scale
        self._recipe = recipe
        self._benches = tuple(benches)
        self._open = ExitStack()
        self._crew: Crew | None = None
        self._corpora: dict[str, Path] = {}
        path = scale.run_dir
        if path is None:
            path = Path(tempfile.mkdtemp(prefix="saebench-"))
            self._open.callback(shutil.rmtree, path, ignore_errors=True)
        self._directory = RunDirectory(path)
        self._open.enter_context(self._directory.held())

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the run directory."""
        damaged = self._directory.damaged
        if not damaged:
            return ()
        count = f"{len(damaged)} damaged shard{'s' if len(damaged) > 1 else ''}"
        return (f"note: {count} in {self._directory.path} measured again: {damaged[0]}",)

    def measure(
        self,
        bench: "Bench",
        source: Source,
        wanted: "Wanted",
        *,
        keep: "Keep",
        progress: ProgressBar,
    ) -> dict[str, Any]:
        """Return each SAE's measurement by id, as the bench itself would."""
        number = self._benches.index(bench)
        named = [(subject.id, tuple(names)) for subject, names in wanted]
        by_id = {subject.id: (subject, names) for subject, names in wanted}
        found: dict[str, Any] = {}
        for group in groups_of(number, source, named, keep):
            own = self._group(bench, group, progress)
            if own is None:
                some = [by_id[sae] for sae, _ in group.wanted]
                own = bench.measure(source, some, keep=dict(group.keep), progress=progress)
            found |= own
        return found

    def measure_pairs(
        self, bench: "Bench", pairs: Iterable[tuple[str, ...]], *, progress: ProgressBar
    ) -> dict[str, Any]:
        """Return each pair's measurement by its joined name, as the bench itself would."""
        group = pair_group(self._benches.index(bench), list(pairs))
        found = self._group(bench, group, progress)
        assert found is not None
        return found

    def close(self) -> None:
        """Let go of workers and of the run directory."""
        if self._crew is not None:
            self._crew.close()
            self._crew = None
        self._open.close()

    def _group(self, bench: "Bench", group: Group, progress: ProgressBar) -> dict[str, Any] | None:
        """Return what a group's shards give together; None where it is not divided."""
        sequences, width, _ = bench.extent(group.source, group.subjects(bench))
        if sequences == 0:
            return None
        own = identity(bench, group, threads=self._recipe.threads)
        ranges = ranges_of(sequences, width, size=self._scale.shard_sequences)
        jobs = [Job(i, group, rows, own) for i, rows in enumerate(ranges)]
        keys = [shard_key(own, rows) for rows in ranges]
        label = f"{_told(group)} on {bench.host.name}, {len(jobs)} shards"
        with progress(label, sequences * width) as advance:
            missing = [job for job, key in zip(jobs, keys, strict=True) if not self._kept(key)]
            first, last = zip(*ranges, strict=True)
            advance(width * (sequences - sum(last[j.number] - first[j.number] for j in missing)))
            for job, payload in self._done(bench, missing):
                self._directory.write(keys[job.number], payload)
                advance(width * (last[job.number] - first[job.number]))
        return self._together(bench, keys)

    def _kept(self, key: str) -> bool:
        if self._scale.rerun is Rerun.ALWAYS:
            return False
        if self._directory.has(key):
            return True
        if self._scale.rerun is Rerun.NEVER:
            raise StoreError(
                f"--sae-rerun never: {self._directory.path} lacks the shard {key}; leave it out to "
                "measure what is missing"
            )
        return False

    def _done(self, bench: "Bench", jobs: list[Job]) -> Iterator[tuple[Job, bytes]]:
        if not jobs:
            return
        crew = self._crew_of()
        if is_needed(bench, jobs[0].group):
            key = self._first_pass(bench, crew, jobs[0])
            jobs = [replace(job, corpus=key) for job in jobs]
        yield from crew.run(jobs, self._corpora)

    def _first_pass(self, bench: "Bench", crew: Crew, job: Job) -> str:
        """Make sure that statistics of the corpus are there; return their name."""
        key = corpus_key(bench, job.group, threads=self._recipe.threads)
        if (
            self._scale.rerun is Rerun.ALWAYS
            and key not in self._corpora
            or (not self._directory.has(key))
        ):
            ((_, data),) = crew.run([replace(job, rows=None)], {})
            self._directory.write(key, data)
        self._corpora[key] = self._directory.file(key)
        return key

    def _crew_of(self) -> Crew:
        if self._crew is None:
            self._crew = _hired(self._scale, self._recipe, self._benches)
        return self._crew

    def _together(self, bench: "Bench", keys: Sequence[str]) -> dict[str, Any]:
        """Read the shards in their order, and add them up."""
        parts, costs = InOrder(), list[Cost]()
        for key in keys:
            payload = self._directory.read(key)
            if payload is None:
                raise StoreError(f"{self._directory.file(key)}: was altered during the run")
            shard = decode(payload)
            parts.add(shard["found"])
            bench.data |= shard["data"]
            bench.parts |= shard["parts"]
            costs += shard["costs"]
        bench.costs += _added(costs)
        return {name: _with_text(found, bench) for name, found in parts.whole().items()}


@dataclass
class Here:
    """Does jobs in this process, one by one."""

    worker: Worker
    threads: int

    def run(self, jobs: Iterable[Job], corpora: Mapping[str, Path]) -> Iterator[tuple[Job, bytes]]:
        """Give each job with what it found."""
        for job in jobs:
            path = corpora[job.corpus] if job.corpus else None
            with _threads(self.threads):
                found = self.worker.do_with(job, path)
            yield job, found

    def close(self) -> None:
        """Nothing is held."""


def _hired(scale: Scale, recipe: Recipe, benches: "Sequence[Bench]") -> Crew:
    if scale.engine is EngineKind.RAY:
        from saebench.scale.cluster import Cluster

        return Cluster(recipe, workers=scale.workers, address=scale.address, gpus=scale.gpus)
    if scale.workers is None or scale.workers == 1:
        return Here(Worker(benches, threads=recipe.threads), recipe.threads)
    from saebench.scale.processes import Processes

    return Processes(recipe, workers=scale.workers)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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


def _told(group: Group) -> str:
    count = len(group.wanted)
    what = "pairs" if group.source == PAIRS else "SAEs"
    name = group.wanted[0][0] if count == 1 else f"{count} {what}"
    return f"{name} ({group.source})"
