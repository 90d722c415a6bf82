"""Who does jobs: this process, others of this machine, or actors of a Ray cluster."""

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


class Crew(Protocol):
    """Does jobs."""

    def run(self, jobs: Iterable[Job], corpora: Mapping[str, Path]) -> Iterator[tuple[Job, bytes]]:
        """Give each job with what it found, as they finish."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


@dataclass
class Here:
    """Does jobs in this process, one by one, on what is loaded here already."""

    worker: "Worker"
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


def here(recipe: Recipe, benches: "Sequence[Bench]") -> Here:
    """Return who does jobs in this process."""
    from saebench.scale.worker import Worker

    return Here(Worker(benches, threads=recipe.threads), recipe.threads)


def hired(scale: Scale, recipe: Recipe) -> Crew:
    """Return who does jobs elsewhere; they begin to load what the recipe names.

    Raises:
        OptionError: where Ray is asked for and not to be had.
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
    """Holds the run directory, and hires workers.

    Those begin to load at once, while this process still has torch to import, but for a run that
    goes on: it may need none.

    Args:
        scale: how the run is shared out.
        recipe: what workers load.

    Raises:
        OptionError: where the run directory cannot be used, or Ray is not to be had.
    """

    def __init__(self, scale: Scale, recipe: Recipe) -> None:
        self.scale = scale
        self.recipe = recipe
        self._crew: Crew | None = None
        with ExitStack() as opened:
            path = scale.run_dir
            if path is None:
                path = Path(tempfile.mkdtemp(prefix="saebench-"))
                opened.callback(shutil.rmtree, path, ignore_errors=True)
            self.directory = RunDirectory(path)
            opened.enter_context(self.directory.held())
            self.outcomes = Outcomes(path)
            if scale.hires and (self.directory.is_empty or scale.rerun is Rerun.ALWAYS):
                self._crew = hired(scale, recipe)
            self._open = opened.pop_all()

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the run directory."""
        damaged = self.directory.damaged
        if not damaged:
            return ()
        count = f"{len(damaged)} damaged shard{'s' if len(damaged) > 1 else ''}"
        return (f"note: {count} in {self.directory.path} measured again: {damaged[0]}",)

    def crew(self, benches: "Sequence[Bench]") -> Crew:
        """Return who does the jobs: workers, or this process on what it has loaded."""
        if self._crew is None:
            hires = self.scale.hires
            self._crew = hired(self.scale, self.recipe) if hires else here(self.recipe, benches)
        return self._crew

    def dismiss(self) -> None:
        """Let go of workers."""
        if self._crew is not None:
            self._crew.close()
            self._crew = None

    def close(self) -> None:
        """Let go of workers and of the run directory."""
        self.dismiss()
        self._open.close()
