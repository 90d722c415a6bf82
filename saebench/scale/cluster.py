"""Worker pool of Ray actors, on one machine or many; lost workers are replaced."""

import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saebench.errors import OptionError, StoreError
from saebench.scale.jobs import Job, Recipe
from saebench.scale.rundir import payload
from saebench.telemetry import switch_telemetry_off
from saebench.text import first_line

if TYPE_CHECKING:
    from saebench.scale.worker import Worker

TRIES = 4
START_SECONDS = 600.0  # time for the first worker of a run to load the model


class Cluster:
    """Runs jobs in actors of a Ray cluster.

    Args:
        recipe: what each worker loads.
        workers: number of workers; if None, as many as the cluster has resources for.
        address: of the cluster, ``auto`` for a running one; None starts one on this machine.
        gpus: GPUs of each worker.

    Raises:
        OptionError: if Ray is not installed, or there is no such cluster.
    """

    def __init__(
        self, recipe: Recipe, *, workers: int | None, address: str | None, gpus: float | None
    ) -> None:
        self._ray = _imported()
        self._recipe = recipe
        self._in_object_store: dict[str, Any] = {}
        self._free: list[Any] = []
        self._starting: dict[Any, Any] = {}
        self._failed_starts = 0
        self._started = not self._ray.is_initialized()
        if self._started:
            self._connect(recipe, workers, address)
        needs = {"num_cpus": recipe.threads, "num_gpus": gpus or 0}
        with ExitStack() as on_error:
            on_error.callback(self.close)
            self._workers = workers or self._capacity(needs)
            self._actor = self._ray.remote(**needs, max_restarts=0)(_Actor)
            for _ in range(self._workers):
                self._start_worker()
            on_error.pop_all()

    def run(self, jobs: Iterable[Job], corpora: Mapping[str, Path]) -> Iterator[tuple[Job, bytes]]:
        """Yield each job with its result, in the order in which they finish.

        A worker has one job at a time, so that results are computed no faster than they are used.

        Args:
            jobs: taken from the iterable as workers become free.
            corpora: files of corpus statistics, by name.

        Raises:
            StoreError: if a job's workers were lost repeatedly, none could be started, or the
                cluster was lost.
        """
        try:
            yield from self._run(jobs, corpora)
        except (self._ray.exceptions.RayError, ConnectionError) as error:
            raise StoreError(
                f"the Ray cluster was lost: {first_line(error)}; finished shards are "
                "kept: run the same command again to resume"
            ) from error

    def _run(self, jobs: Iterable[Job], corpora: Mapping[str, Path]) -> Iterator[tuple[Job, bytes]]:
        waiting, retry, tries = iter(jobs), deque[Job](), Counter[int]()
        running: dict[Any, tuple[Any, Job]] = {}
        while True:
            while self._free:
                job = retry.popleft() if retry else next(waiting, None)
                if job is None:
                    break
                actor = self._free.pop()
                running[actor.do.remote(job, self._corpus(job, corpora))] = (actor, job)
            if not running and not retry and self._free:
                return
            ready = self._next_ready([*running, *self._starting], idle=not running)
            if ready in running:
                actor, job = running.pop(ready)
                result = self._result(ready)
                if result is None:
                    self._retry_lost(job, retry, tries)
                else:
                    self._free.append(actor)
                    yield job, result
            else:
                self._worker_started(ready)

    def close(self) -> None:
        """Shut down the actors, and the cluster if it was started here."""
        if self._started:
            self._ray.shutdown()
        else:
            for actor in [*self._free, *self._starting.values()]:
                self._ray.kill(actor)

    def _connect(self, recipe: Recipe, workers: int | None, address: str | None) -> None:
        arguments: dict[str, Any] = {"address": address} if address else {
            "num_cpus": max(os.cpu_count() or 1, recipe.threads * (workers or 1)),
            "include_dashboard": False,
            "dashboard_host": "127.0.0.1",
        }  # fmt: skip
        try:
            self._ray.init(**arguments, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            where = f"--sae-ray-address {address}" if address else "--sae-engine ray"
            raise OptionError(
                f"{where}: no Ray cluster: {first_line(error)}; start one (ray start "
                "--head), or leave --sae-ray-address out for one on this machine"
            ) from error

    def _capacity(self, needs: Mapping[str, float]) -> int:
        has = self._ray.cluster_resources()
        limits = [int(has.get("CPU", 1) // needs["num_cpus"])]
        if needs["num_gpus"]:
            limits.append(int(has.get("GPU", 0) // needs["num_gpus"]))
        if min(limits) < 1:
            raise OptionError(
                f"--sae-engine ray: the cluster has {has.get('CPU', 0):g} CPUs and "
                f"{has.get('GPU', 0):g} GPUs; a worker needs {needs['num_cpus']} and "
                f"{needs['num_gpus']:g} (--sae-worker-threads, --sae-worker-gpus)"
            )
        return min(limits)

    def _start_worker(self) -> None:
        """Start a worker; it gets jobs once it has loaded the model and the SAEs."""
        actor = self._actor.remote(self._recipe)
        self._starting[actor.ready.remote()] = actor

    def _corpus(self, job: Job, corpora: Mapping[str, Path]) -> Any:
        """Return a reference to a job's corpus statistics, sent to each node once; None without."""
        if job.corpus is None:
            return None
        if job.corpus not in self._in_object_store:
            self._in_object_store[job.corpus] = self._ray.put(payload(corpora[job.corpus]))
        return self._in_object_store[job.corpus]

    def _next_ready(self, refs: list[Any], *, idle: bool) -> Any:
        ready, _ = self._ray.wait(refs, timeout=START_SECONDS if idle else None)
        if not ready:
            raise StoreError(
                f"no Ray worker started within {START_SECONDS:.0f} s: the cluster has "
                f"{self._ray.available_resources()} free; finished shards are kept: see "
                "--sae-workers, --sae-worker-threads and --sae-worker-gpus"
            )
        return ready[0]

    def _result(self, ref: Any) -> bytes | None:
        """Return a job's result; None if its worker was lost."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(ref)
        except errors.RayTaskError as error:
            raise _cause(error) from error
        except errors.RayError:  # the actor died, its node left, or its memory ran out
            return None

    def _retry_lost(self, job: Job, retry: deque[Job], tries: Counter[int]) -> None:
        tries[job.number] += 1
        if tries[job.number] == TRIES:
            raise StoreError(
                f"workers that measured shard {job.number} were lost {TRIES} times (killed, or out "
                "of memory); finished shards are kept: go on with smaller --sae-shard-sequences"
            )
        retry.append(job)
        self._start_worker()

    def _worker_started(self, ref: Any) -> None:
        actor = self._starting.pop(ref)
        errors = self._ray.exceptions
        try:
            self._ray.get(ref)
        except errors.RayTaskError as error:
            raise _cause(error) from error
        except errors.RayError as error:
            self._failed_starts += 1
            if self._failed_starts >= TRIES * self._workers:
                raise StoreError(f"Ray workers do not start: {error}") from error
            self._start_worker()
        else:
            self._free.append(actor)


class _Actor:
    """A Ray actor that contains a worker."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._worker: Worker | None = None

    def ready(self) -> bool:
        """Load everything; not in ``__init__``, whose errors Ray reports as text only."""
        from saebench.scale.worker import load_worker

        self._worker = load_worker(self._recipe)
        return True

    def do(self, job: Job, corpus: bytes | None) -> bytes:
        """Run a job."""
        assert self._worker is not None
        return self._worker.do(job, corpus)


def _cause(error: Any) -> BaseException:
    """Return the error that a worker raised, if Ray has it."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error


def _imported() -> Any:
    switch_telemetry_off()  # must come before Ray is imported
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise OptionError(
            "--sae-engine ray: Ray is not installed; pip install 'pytest-saebench[ray]'"
        ) from error
    return ray
