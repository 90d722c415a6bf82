"""Worker pools: this process, processes on this machine, or actors of a Ray cluster."""

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from saebench.options import EngineKind, Rerun, Scale
from saebench.scale.jobs import Job, Recipe
from saebench.scale.rundir import Outcomes, RunDirectory

if TYPE_CHECKING:
    from saebench.experiments.bench import Bench
    from saebench.scale.worker import Worker


class WorkerPool(Protocol):
    """Runs jobs."""

    def run(self, jobs: Iterable[Job], corpora: Mapping[str, Path]) -> Iterator[tuple[Job, bytes]]:
        """Yield each job with its result, in the order in which they finish."""
        ...

    def close(self) -> None:
        """Shut down all workers."""
        ...


@dataclass
class LocalPool:
    """Runs jobs in this process, one by one, on the benches that are loaded already."""

    worker: "Worker"
    threads: int

    def run(self, jobs: Iterable[Job], corpora: Mapping[str, Path]) -> Iterator[tuple[Job, bytes]]:
        """Yield each job with its result."""
        for job in jobs:
            path = corpora[job.corpus] if job.corpus else None
            with _threads(self.threads):
                result = self.worker.do_with(job, path)
            yield job, result

    def close(self) -> None:
        """Do nothing: there is nothing to shut down."""


def local_pool(recipe: Recipe, benches: "Sequence[Bench]") -> LocalPool:
    """Return a pool that runs jobs in this process."""
    from saebench.scale.worker import Worker

    return LocalPool(Worker(benches, threads=recipe.threads), recipe.threads)


def start_workers(scale: Scale, recipe: Recipe) -> WorkerPool:
    """Start worker processes or Ray actors, which load what the recipe names.

    Raises:
        OptionError: if Ray is requested and not available.
    """
    if scale.engine is EngineKind.RAY:
        from saebench.scale.cluster import Cluster

        return Cluster(recipe, workers=scale.workers, address=scale.address, gpus=scale.gpus)
    from saebench.scale.processes import Processes

    return Processes(recipe, workers=scale.workers or 1)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Workplace:
    """The locked run directory and the workers.

    Workers start to load at once, while this process still imports torch; in a resumed run, which
    may need none, they start with the first missing shard.

    Args:
        scale: the options for shards and workers.
        recipe: what workers load.

    Raises:
        OptionError: if the run directory cannot be used, or Ray is not available.
    """

    def __init__(self, scale: Scale, recipe: Recipe) -> None:
        self.scale = scale
        self.recipe = recipe
        self._workers: WorkerPool | None = None
        with ExitStack() as opened:
            path = scale.run_dir
            if path is None:
                path = Path(tempfile.mkdtemp(prefix="saebench-"))
                opened.callback(shutil.rmtree, path, ignore_errors=True)
            self.directory = RunDirectory(path)
            opened.enter_context(self.directory.held())
            self.outcomes = Outcomes(path)
            if scale.hires and (self.directory.is_empty or scale.rerun is Rerun.ALWAYS):
                self._workers = start_workers(scale, recipe)
            self._open = opened.pop_all()

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user about the run directory."""
        damaged = self.directory.damaged
        if not damaged:
            return ()
        count = f"{len(damaged)} damaged shard{'s' if len(damaged) > 1 else ''}"
        return (f"note: {count} in {self.directory.path} measured again: {damaged[0]}",)

    def workers(self, benches: "Sequence[Bench]") -> WorkerPool:
        """Return the workers, started if necessary; without workers, a pool in this process."""
        if self._workers is None and self.scale.hires:
            self._workers = start_workers(self.scale, self.recipe)
        elif self._workers is None:
            self._workers = local_pool(self.recipe, benches)
        return self._workers

    def stop_workers(self) -> None:
        """Shut down the workers."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def close(self) -> None:
        """Shut down workers and unlock the run directory."""
        self.stop_workers()
        self._open.close()
