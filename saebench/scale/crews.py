"""Who does jobs: this process, others of this machine, or actors of a Ray cluster."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from saebench.scale.jobs import Job, Recipe
from saebench.scale.options import EngineKind, Scale

if TYPE_CHECKING:
    from saebench.judging.bench import Bench
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
