"""Workers that are Ray actors, on this machine or many; one that is lost is replaced."""

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
START_SECONDS = 600.0  # within which the first worker of a run must have loaded the model


class Cluster:
    """Does jobs in actors of a Ray cluster.

    Args:
        recipe: what each of them loads.
        workers: how many; as many as the cluster has room for where None.
        address: of the cluster, ``auto`` for a running one; None starts one on this machine.
        gpus: of each worker.

    Raises:
        OptionError: where Ray is not installed, or there is no such cluster.
    """

    def __init__(
        self, recipe: Recipe, *, workers: int | None, address: str | None, gpus: float | None
    ) -> None:
        self._ray = _imported()
        self._recipe = recipe
        self._handed: dict[str, Any] = {}
        self._free: list[Any] = []
        self._coming: dict[Any, Any] = {}
        self._gone = 0
        self._started = not self._ray.is_initialized()
        if self._started:
            self._connect(recipe, workers, address)
        needs = {"num_cpus": recipe.threads, "num_gpus": gpus or 0}
        with ExitStack() as undone:
            undone.callback(self.close)
            self._workers = workers or self._room(needs)
            self._actor = self._ray.remote(**needs, max_restarts=0)(_Actor)
            for _ in range(self._workers):
                self._hire()
            undone.pop_all()

    def run(self, jobs: Iterable[Job], corpora: Mapping[str, Path]) -> Iterator[tuple[Job, bytes]]:
        """Give each job with what it found, as they finish.

        A worker has one job at a time: results come no faster than they are taken.

        Args:
            jobs: taken as workers become free.
            corpora: files of what first passes found, by name.

        Raises:
            StoreError: where a job's worker was lost again and again, none could be started, or
                the cluster is gone.
        """
        try:
            yield from self._run(jobs, corpora)
        except (self._ray.exceptions.RayError, ConnectionError) as error:
            raise StoreError(
                f"the Ray cluster was lost: {first_line(error)}; finished shards are "
                "kept: the same command goes on"
            ) from error

    def _run(self, jobs: Iterable[Job], corpora: Mapping[str, Path]) -> Iterator[tuple[Job, bytes]]:
        waiting, again, tries = iter(jobs), deque[Job](), Counter[int]()
        flying: dict[Any, tuple[Any, Job]] = {}
        while True:
            while self._free:
                job = again.popleft() if again else next(waiting, None)
                if job is None:
                    break
                actor = self._free.pop()
                flying[actor.do.remote(job, self._corpus(job, corpora))] = (actor, job)
            if not flying and not again and self._free:
                return
            ready = self._one_of([*flying, *self._coming], idle=not flying)
            if ready in flying:
                actor, job = flying.pop(ready)
                found = self._result(ready)
                if found is None:
                    self._lost(job, again, tries)
                else:
                    self._free.append(actor)
                    yield job, found
            else:
                self._arrived(ready)

    def close(self) -> None:
        """Dismiss the actors, and the cluster where it was started here."""
        if self._started:
            self._ray.shutdown()
        else:
            for actor in [*self._free, *self._coming.values()]:
                self._ray.kill(actor)

    def _connect(self, recipe: Recipe, workers: int | None, address: str | None) -> None:
        given: dict[str, Any] = {"address": address} if address else {
            "num_cpus": max(os.cpu_count() or 1, recipe.threads * (workers or 1)),
            "include_dashboard": False,
            "dashboard_host": "127.0.0.1",
        }  # fmt: skip
        try:
            self._ray.init(**given, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            where = f"--sae-ray-address {address}" if address else "--sae-engine ray"
            raise OptionError(
                f"{where}: no Ray cluster: {first_line(error)}; start one (ray start "
                "--head), or leave --sae-ray-address out for one on this machine"
            ) from error

    def _room(self, needs: Mapping[str, float]) -> int:
        has = self._ray.cluster_resources()
        rooms = [int(has.get("CPU", 1) // needs["num_cpus"])]
        if needs["num_gpus"]:
            rooms.append(int(has.get("GPU", 0) // needs["num_gpus"]))
        if min(rooms) < 1:
            raise OptionError(
                f"--sae-engine ray: the cluster has {has.get('CPU', 0):g} CPUs and "
                f"{has.get('GPU', 0):g} GPUs; a worker needs {needs['num_cpus']} and "
                f"{needs['num_gpus']:g} (--sae-worker-threads, --sae-worker-gpus)"
            )
        return min(rooms)

    def _hire(self) -> None:
        """Ask for a worker; it joins when it has loaded what it measures."""
        actor = self._actor.remote(self._recipe)
        self._coming[actor.ready.remote()] = actor

    def _corpus(self, job: Job, corpora: Mapping[str, Path]) -> Any:
        """Return the first pass' bytes in the object store: sent to each node once."""
        if job.corpus is None:
            return None
        if job.corpus not in self._handed:
            self._handed[job.corpus] = self._ray.put(payload(corpora[job.corpus]))
        return self._handed[job.corpus]

    def _one_of(self, refs: list[Any], *, idle: bool) -> Any:
        ready, _ = self._ray.wait(refs, timeout=START_SECONDS if idle else None)
        if not ready:
            raise StoreError(
                f"no Ray worker started within {START_SECONDS:.0f} s: the cluster has "
                f"{self._ray.available_resources()} free; finished shards are kept: see "
                "--sae-workers, --sae-worker-threads and --sae-worker-gpus"
            )
        return ready[0]

    def _result(self, ref: Any) -> bytes | None:
        """Return what a job found; None where its worker was lost."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(ref)
        except errors.RayTaskError as error:
            raise _cause(error) from error
        except errors.RayError:  # the actor died, its node left, or its memory ran out
            return None

    def _lost(self, job: Job, again: deque[Job], tries: Counter[int]) -> None:
        tries[job.number] += 1
        if tries[job.number] == TRIES:
            raise StoreError(
                f"workers that measured shard {job.number} were lost {TRIES} times (killed, or out "
                "of memory); finished shards are kept: go on with smaller --sae-shard-sequences"
            )
        again.append(job)
        self._hire()

    def _arrived(self, ref: Any) -> None:
        actor = self._coming.pop(ref)
        errors = self._ray.exceptions
        try:
            self._ray.get(ref)
        except errors.RayTaskError as error:
            raise _cause(error) from error
        except errors.RayError as error:
            self._gone += 1
            if self._gone >= TRIES * self._workers:
                raise StoreError(f"Ray workers do not start: {error}") from error
            self._hire()
        else:
            self._free.append(actor)


class _Actor:
    """A worker in an actor of its own."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._worker: Worker | None = None

    def ready(self) -> bool:
        """Load everything: not when the actor is made, whose errors Ray tells as text alone."""
        from saebench.scale.worker import load_worker

        self._worker = load_worker(self._recipe)
        return True

    def do(self, job: Job, corpus: bytes | None) -> bytes:
        """Do a job."""
        assert self._worker is not None
        return self._worker.do(job, corpus)


def _cause(error: Any) -> BaseException:
    """Return our own error, where a worker raised one."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error


def _imported() -> Any:
    switch_telemetry_off()  # before Ray is imported: it reports its use otherwise
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise OptionError(
            "--sae-engine ray: Ray is not installed; pip install 'pytest-saebench[ray]'"
        ) from error
    return ray
