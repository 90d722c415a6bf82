"""Statistics of the corpus, from a first pass over the run's first sequences, for all shards."""

import hashlib
import json
import os
import socket
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from saebench import __version__
from saebench.errors import HostError
from saebench.experiments.codec import decode, encode
from saebench.progress import no_progress
from saebench.scale.jobs import Job, Recipe
from saebench.scale.rundir import FORMAT, payload
from saebench.scale.shards import Group, identity
from saebench.substitution.reference import Reference

if TYPE_CHECKING:
    from saebench.experiments.bench import Bench


def gathered(bench: "Bench", group: "Group") -> bytes:
    """Run the first pass, and return what shards must know: Σ, means, a bank of activations."""
    targets = group.targets(bench)
    statistics = [
        [_arrays(each) for each in bench.statistics(tokens, targets).values()]
        for tokens in group.experiment.on(bench).corpora(targets)
    ]
    return encode(statistics)


def learn(bench: "Bench", group: "Group", data: bytes) -> None:
    """Take what a first pass found.

    Raises:
        StoreError: where these are no such bytes.
    """
    targets = group.targets(bench)
    sites, device = bench.sites(targets), bench.host.device
    corpora = group.experiment.on(bench).corpora(targets)
    for tokens, statistics in zip(corpora, decode(data), strict=True):
        references = [_reference(each, device) for each in statistics]
        bench.take_statistics(tokens, dict(zip(sites, references, strict=True)))


def is_needed(bench: "Bench", group: "Group") -> bool:
    """True where a group's shards need a first pass."""
    return bool(group.experiment.on(bench).corpora(group.targets(bench)))


def corpus_key(bench: "Bench", group: "Group", *, threads: int) -> str:
    """Name a first pass: the same for all sources of the same sequences and places."""
    targets = group.targets(bench)
    corpora = group.experiment.on(bench).corpora(targets)
    facts = {
        "format": FORMAT,
        "versions": [__version__, torch.__version__],
        "model": [bench.model.weights_sha256, bench.model.dtype, bench.host.device.type],
        "places": [str(site) for site in bench.sites(targets)],
        "data": [tokens.fingerprint for tokens in corpora],
        "batch_size": bench.settings.batch_size,
        "threads": threads,
    }
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:40]


def _arrays(reference: Reference) -> dict[str, Any]:
    return {f.name: getattr(reference, f.name).cpu().numpy() for f in fields(reference)}


def _reference(arrays: dict[str, Any], device: torch.device) -> Reference:
    return Reference(**{name: torch.from_numpy(a).to(device) for name, a in arrays.items()})


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

    from saebench.experiments.prepare import prepare
    from saebench.subjects.references import find_subjects

    if os.path.isdir(recipe.directory):
        os.chdir(recipe.directory)
    torch.set_num_threads(recipe.threads)
    chosen = [r for r in find_subjects(recipe.saes) if r.id in recipe.ids]
    return Worker(prepare(recipe.settings, chosen), threads=recipe.threads)


def _measured(bench: "Bench", group: Group, rows: slice) -> bytes:
    """Return what is found in a shard, what the data are and what it cost."""
    part = bench.within(rows)
    results = group.experiment.on(part).measure(group.targets(part), progress=no_progress)
    return encode({"results": results, "data": part.data, "parts": part.parts, "costs": part.costs})
