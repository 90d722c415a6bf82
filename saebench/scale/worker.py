"""What measures shards, in this process or another: loads the model once, then does jobs."""

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saebench.errors import HostError
from saebench.judging.progress import no_progress
from saebench.properties.base import PAIRS
from saebench.scale.codec import encode
from saebench.scale.corpus import gathered, learn
from saebench.scale.jobs import Job, Recipe
from saebench.scale.rundir import payload
from saebench.scale.shards import Group, identity

if TYPE_CHECKING:
    from saebench.judging.bench import Bench


class Worker:
    """Does jobs on benches.

    Args:
        benches: the run's, all of them.
        threads: that its identity is told with.
    """

    def __init__(self, benches: "Sequence[Bench]", *, threads: int) -> None:
        self._benches = tuple(benches)
        self._threads = threads
        self._learned: set[str] = set()

    def do_with(self, job: Job, corpus: Path | None) -> bytes:
        """Return what a job finds; what the first pass found is read from a file, once."""
        if corpus is None or job.corpus in self._learned:
            return self.do(job)
        return self.do(job, payload(corpus))

    def do(self, job: Job, corpus: bytes | None = None) -> bytes:
        """Return what a job finds, as bytes.

        Args:
            job: the shard, or the first pass.
            corpus: what the first pass found, where the job names one.

        Raises:
            HostError: where this machine has another model, other SAEs, data or versions.
        """
        bench = self._benches[job.group.bench]
        here = identity(bench, job.group, threads=self._threads)
        if here != job.identity:
            raise HostError(
                f"{socket.gethostname()} has another model, SAE, text or version of saebench or "
                f"torch than the process that shares out the run: {here} there, {job.identity} "
                "expected; install and copy the same on every node"
            )
        if job.rows is None:
            return gathered(bench, job.group)
        if job.corpus is not None and job.corpus not in self._learned:
            assert corpus is not None
            learn(bench, job.group, corpus)
            self._learned.add(job.corpus)
        return _measured(bench, job.group, slice(*job.rows))


def load_worker(recipe: Recipe) -> Worker:
    """Load what a recipe names.

    Raises:
        UsageError: where it is not to be had on this machine.
    """
    import torch

    from saebench.judging.preparation import prepare
    from saebench.subjects.references import find_subjects

    if os.path.isdir(recipe.directory):
        os.chdir(recipe.directory)
    torch.set_num_threads(recipe.threads)
    chosen = [r for r in find_subjects(recipe.saes) if r.id in recipe.ids]
    return Worker(prepare(recipe.settings, chosen), threads=recipe.threads)


def _measured(bench: "Bench", group: Group, rows: slice) -> bytes:
    """Return what is found in a shard, what the data are and what it cost."""
    part = bench.within(rows)
    found: dict[str, Any]
    if group.source == PAIRS:
        found = part.measure_pairs(group.pairs, progress=no_progress)
    else:
        found = part.measure(
            group.source, group.subjects(bench), keep=dict(group.keep), progress=no_progress
        )
    return encode({"found": found, "data": part.data, "parts": part.parts, "costs": part.costs})
