"""How worker processes start: forked from one that has imported what they need, where that is safe.

Torch, transformers and SAELens take several seconds to import, and loading a small model takes
less than one. A server imports them once for all workers, while pytest's own process does too.
"""

import importlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import TYPE_CHECKING

from saebench.errors import StoreError
from saebench.scale.jobs import Job, Recipe

if TYPE_CHECKING:
    from saebench.scale.worker import Worker


# SAELens and the model classes are imported when an SAE and a model are loaded, else.
IMPORTED = (
    "saebench.scale.worker",
    "saebench.experiments.prepare",
    "saebench.scale.sharded",
    "transformers.models.auto",
    "transformer_lens",
    "sae_lens",
)
PASSING = "PYTEST_"  # pytest says in the environment which test runs

_server: dict[str, str] | None = None  # the environment that it was started in


def context_for(device: str) -> BaseContext:
    """Return how to start processes that measure on a device, and import here what they import.

    A process that has touched CUDA cannot be forked, and one of macOS had better not be: there
    each worker imports everything for itself.

    Args:
        device: ``auto``, or a torch device.
    """
    forks = sys.platform == "linux" and device in ("auto", "cpu") and _serves()
    if forks and _server is None:
        _start()
    for name in IMPORTED:
        importlib.import_module(name)
    if not forks or (device == "auto" and _has_cuda()):
        return multiprocessing.get_context("spawn")
    return multiprocessing.get_context("forkserver")


def _start() -> None:
    global _server
    _server = _environment(os.environ)
    multiprocessing.set_forkserver_preload(list(IMPORTED))
    forkserver.ensure_running()  # does not wait for what is imported there


def _serves() -> bool:
    """True where there is no server yet, or one of this environment: workers have the server's."""
    return _server is None or _server == _environment(os.environ)


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in given.items() if not name.startswith(PASSING)}


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


TRIES = 4  # a killed process takes down the jobs of all: each of them counts it
AHEAD = 2  # jobs of each worker that wait or run: no more results than that come at once

_worker: "Worker | None" = None


class Processes:
    """Does jobs in processes of this machine.

    Making it takes as long as importing torch here, which is done beside.

    Args:
        recipe: what each of them loads.
        workers: how many.
    """

    def __init__(self, recipe: Recipe, *, workers: int) -> None:
        self._recipe = recipe
        self._workers = workers
        self._end: Connection | None = None
        self._pool = self._started()

    def run(self, jobs: Iterable[Job], corpora: Mapping[str, Path]) -> Iterator[tuple[Job, bytes]]:
        """Give each job with what it found, as they finish.

        Args:
            jobs: taken as workers become free.
            corpora: files of what first passes found, by name.

        Raises:
            StoreError: where a job's process died again and again.
        """
        waiting, again, tries = iter(jobs), deque[Job](), Counter[int]()
        flying: dict[Future[bytes], Job] = {}
        while True:
            while len(flying) < AHEAD * self._workers:
                job = again.popleft() if again else next(waiting, None)
                if job is None:
                    break
                flying[self._submitted(job, corpora)] = job
            if not flying:
                return
            done, _ = wait(flying, return_when=FIRST_COMPLETED)
            for future in done:
                job = flying.pop(future)
                try:
                    yield job, future.result()
                except BrokenProcessPool:
                    again.append(job)
            if again:
                again.extend(flying.values())
                flying.clear()
                self._replace(again, tries)

    def _submitted(self, job: Job, corpora: Mapping[str, Path]) -> Future[bytes]:
        path = corpora.get(job.corpus) if job.corpus else None
        try:
            return self._pool.submit(_do, self._recipe, job, path)
        except BrokenProcessPool as error:  # a process died while nobody waited for it
            failed: Future[bytes] = Future()
            failed.set_exception(error)
            return failed

    def close(self) -> None:
        """End the processes, whatever they are at: also those that still load."""
        if self._end is not None:
            self._end.close()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _replace(self, again: Iterable[Job], tries: Counter[int]) -> None:
        self.close()
        for job in again:
            tries[job.number] += 1
            if tries[job.number] == TRIES:
                raise StoreError(
                    f"processes that measured shard {job.number} died {TRIES} times (killed, or "
                    "out of memory); finished shards are kept: go on with fewer --sae-workers or "
                    "smaller --sae-shard-sequences"
                )
        self._pool = self._started()

    def _started(self) -> ProcessPoolExecutor:
        context = context_for(self._recipe.settings.device)
        until, self._end = context.Pipe(duplex=False)
        pool = ProcessPoolExecutor(
            self._workers,
            mp_context=context,
            initializer=_watch,
            initargs=(until,),
        )
        # A process starts with a job that finds none idle: so all load at once, and not when
        # the first pass over the corpus is over. What goes wrong, the jobs will tell.
        with _script_left_alone():
            for _ in range(self._workers):
                pool.submit(_loaded, self._recipe)
        return pool


def _loaded(recipe: Recipe) -> None:
    global _worker
    if _worker is None:
        # Late: a process must soon be able to end, and this imports torch.
        from saebench.scale.worker import load_worker

        _worker = load_worker(recipe)


def _do(recipe: Recipe, job: Job, corpus: Path | None) -> bytes:
    _loaded(recipe)
    assert _worker is not None
    return _worker.do_with(job, corpus)


def _watch(until: Connection) -> None:
    """End when the process that started this one says so, or ends, however that may be."""
    parent = os.getppid()  # a fork server's end is an end too
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that shares out ends the run

    def look() -> None:
        # At the pipe's other end is nobody but the parent: it is closed when the parent ends.
        while not until.poll(1.0) and os.getppid() == parent:
            pass
        os._exit(0)

    threading.Thread(target=look, daemon=True).start()


@contextmanager
def _script_left_alone() -> Iterator[None]:
    """Start processes that do not run the user's script again, as they else would to import it.

    They need nothing of it; and a script without ``if __name__ == "__main__"`` would start anew.
    """
    main = vars(sys.modules["__main__"])
    before = {name: main[name] for name in ("__spec__", "__file__") if name in main}
    main.update(__spec__=None, __file__=None)
    try:
        yield
    finally:
        for name in ("__spec__", "__file__"):
            main.pop(name)
        main.update(before)
