"""The worker, which runs jobs on benches, and the corpus statistics that all shards share."""

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


def compute_statistics(bench: "Bench", group: "Group") -> bytes:
    """Run the first pass over the corpus; return covariances, means and banks of activations."""
    targets = group.targets(bench)
    statistics = [
        [_arrays(each) for each in bench.statistics(tokens, targets).values()]
        for tokens in group.experiment.on(bench).corpora(targets)
    ]
    return encode(statistics)


def load_statistics(bench: "Bench", group: "Group", data: bytes) -> None:
    """Give a bench the corpus statistics of a first pass.

    Raises:
        StoreError: if the bytes cannot be decoded.
    """
    targets = group.targets(bench)
    sites, device = bench.sites(targets), bench.host.device
    corpora = group.experiment.on(bench).corpora(targets)
    for tokens, statistics in zip(corpora, decode(data), strict=True):
        references = [_reference(each, device) for each in statistics]
        bench.take_statistics(tokens, dict(zip(sites, references, strict=True)))


def is_needed(bench: "Bench", group: "Group") -> bool:
    """True if a group's shards need corpus statistics."""
    return bool(group.experiment.on(bench).corpora(group.targets(bench)))


def corpus_key(bench: "Bench", group: "Group", *, threads: int) -> str:
    """Return the name of corpus statistics, equal for equal sequences, sites and model."""
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
    """Runs jobs on benches.

    Args:
        benches: all benches of the run.
        threads: number of torch's threads, a part of a job's identity.
    """

    def __init__(self, benches: "Sequence[Bench]", *, threads: int) -> None:
        self._benches = tuple(benches)
        self._threads = threads
        self._loaded_corpora: set[str] = set()

    def do_with(self, job: Job, corpus: Path | None) -> bytes:
        """Run a job with corpus statistics from a file, which is read once; return its result."""
        if corpus is None or job.corpus in self._loaded_corpora:
            return self.do(job)
        return self.do(job, payload(corpus))

    def do(self, job: Job, corpus: bytes | None = None) -> bytes:
        """Run a job, and return its encoded result.

        Args:
            job: the shard, or the first pass.
            corpus: the encoded corpus statistics, if the job names some.

        Raises:
            HostError: if this machine has a different model, SAE, text or version.
        """
        bench = self._benches[job.group.bench]
        own = identity(bench, job.group, threads=self._threads)
        if own != job.identity:
            raise HostError(
                f"{socket.gethostname()} has another model, SAE, text or version of saebench or "
                f"torch than the main process of the run: expected {job.identity}, found {own}; "
                "install and copy the same on every node"
            )
        if job.rows is None:
            return compute_statistics(bench, job.group)
        if job.corpus is not None and job.corpus not in self._loaded_corpora:
            assert corpus is not None
            load_statistics(bench, job.group, corpus)
            self._loaded_corpora.add(job.corpus)
        return _measured(bench, job.group, slice(*job.rows))


def load_worker(recipe: Recipe) -> Worker:
    """Return a worker with everything loaded that a recipe names.

    Raises:
        UsageError: if something cannot be loaded on this machine.
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
    """Measure a shard; return its encoded results, records of the data and costs."""
    part = bench.within(rows)
    results = group.experiment.on(part).measure(group.targets(part), progress=no_progress)
    return encode({"results": results, "data": part.data, "parts": part.parts, "costs": part.costs})
