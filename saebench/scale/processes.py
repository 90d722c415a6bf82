"""Worker pool of local processes, forked from a server with all imports done where that is safe.

Torch, transformers and SAELens take several seconds to import, and loading a small model takes less
than one. The server imports them once for all workers, while pytest's own process imports them too.
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
from saebench.formats.library_warnings import listening
from saebench.scale.jobs import Job, Recipe

if TYPE_CHECKING:
    from saebench.scale.worker import Worker


# The last three would otherwise be imported when a model and an SAE are loaded.
IMPORTED = (
    "saebench.scale.worker",
    "saebench.experiments.prepare",
    "saebench.scale.sharded",
    "transformers.models.auto",
    "transformer_lens",
    "sae_lens",
)
FIRST = "saebench.scale.process_start"
PASSING = "PYTEST_"  # pytest puts the name of the running test into the environment

_server: dict[str, str] | None = None  # the environment that the server was started in


def context_for(device: str) -> BaseContext:
    """Return the multiprocessing context for a device, and import what workers import.

    A process that has used CUDA cannot be forked, and forking is unsafe on macOS: there each
    worker is spawned and imports everything itself.

    Args:
        device: ``auto``, or a torch device.
    """
    forks = sys.platform == "linux" and device in ("auto", "cpu") and _serves()
    if forks and _server is None:
        _start()
    with listening():
        for name in IMPORTED:
            importlib.import_module(name)
    if not forks or (device == "auto" and _has_cuda()):
        return multiprocessing.get_context("spawn")
    return multiprocessing.get_context("forkserver")


def _start() -> None:
    global _server
    _server = _environment(os.environ)
    multiprocessing.set_forkserver_preload([FIRST, *IMPORTED])
    forkserver.ensure_running()  # returns while the server still imports


def _serves() -> bool:
    """True if there is no server yet, or its environment, which workers inherit, is this one."""
    return _server is None or _server == _environment(os.environ)


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if not name.startswith(PASSING)}


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


TRIES = 4  # a killed process ends the jobs of all workers, and each of them counts as tried
# What asking a fork server for a process raises once it is dead: no answer, or no server.
NO_ANSWER = (EOFError, ConnectionError)
AHEAD = 2  # jobs of each worker that wait or run, which limits the results in memory

_worker: "Worker | None" = None


class Processes:
    """Runs jobs in processes on this machine.

    Constructing it imports torch in this process, while the workers load.

    Args:
        recipe: what each worker loads.
        workers: number of workers.

    Raises:
        StoreError: if the process that workers are forked from died repeatedly.
    """

    def __init__(self, recipe: Recipe, *, workers: int) -> None:
        self._recipe = recipe
        self._workers = workers
        self._end: Connection | None = None
        self._failed_starts = 0
        self._pool = self._started()

    def run(self, jobs: Iterable[Job], corpora: Mapping[str, Path]) -> Iterator[tuple[Job, bytes]]:
        """Yield each job with its result, in the order in which they finish.

        Args:
            jobs: taken from the iterable as workers become free.
            corpora: files of corpus statistics, by name.

        Raises:
            StoreError: if a job's processes died repeatedly.
        """
        waiting, retry, tries = iter(jobs), deque[Job](), Counter[int]()
        running: dict[Future[bytes], Job] = {}
        while True:
            while len(running) < AHEAD * self._workers:
                job = retry.popleft() if retry else next(waiting, None)
                if job is None:
                    break
                running[self._submitted(job, corpora)] = job
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                job = running.pop(future)
                try:
                    yield job, future.result()
                except BrokenProcessPool:
                    retry.append(job)
            if retry:
                retry.extend(running.values())
                running.clear()
                self._replace(retry, tries)

    def _submitted(self, job: Job, corpora: Mapping[str, Path]) -> Future[bytes]:
        path = corpora.get(job.corpus) if job.corpus else None
        try:
            return self._pool.submit(_do, self._recipe, job, path)
        # A process died between two jobs, or the one that workers are forked from.
        except (BrokenProcessPool, *NO_ANSWER) as error:
            failed: Future[bytes] = Future()
            failed.set_exception(BrokenProcessPool(str(error)))
            return failed

    def close(self) -> None:
        """End all processes, also those that are still loading."""
        self._end_pool(self._pool)

    def _replace(self, retry: Iterable[Job], tries: Counter[int]) -> None:
        self.close()
        for job in retry:
            tries[job.number] += 1
            if tries[job.number] == TRIES:
                raise StoreError(
                    f"processes that measured shard {job.number} died {TRIES} times (killed, or "
                    "out of memory); finished shards are kept: go on with fewer --sae-workers or "
                    "smaller --sae-shard-sequences"
                )
        self._pool = self._started()

    def _started(self) -> ProcessPoolExecutor:
        """Return a pool whose workers load; a killed fork server is started again."""
        while True:
            pool = self._new_pool()
            try:
                self._load(pool)
            except (BrokenProcessPool, *NO_ANSWER) as error:
                self._end_pool(pool)
                self._failed_starts += 1
                if self._failed_starts == TRIES:
                    raise StoreError(
                        f"--sae-workers: the process that starts workers died {TRIES} times while "
                        "it loaded libraries (killed, or out of memory); finished shards are kept: "
                        "run the same command again to resume, with fewer --sae-workers or none"
                    ) from error
            else:
                return pool

    def _new_pool(self) -> ProcessPoolExecutor:
        context = context_for(self._recipe.settings.device)
        until, self._end = context.Pipe(duplex=False)
        return ProcessPoolExecutor(
            self._workers,
            mp_context=context,
            initializer=_watch,
            initargs=(until,),
        )

    def _load(self, pool: ProcessPoolExecutor) -> None:
        """Make all workers load now, not after the first pass over the corpus.

        The pool starts a process for each job while none is idle. Errors recur in the jobs proper.
        """
        with _main_script_hidden():
            for _ in range(self._workers):
                pool.submit(_loaded, self._recipe)

    def _end_pool(self, pool: ProcessPoolExecutor) -> None:
        if self._end is not None:
            self._end.close()
        pool.shutdown(wait=True, cancel_futures=True)


def _loaded(recipe: Recipe) -> None:
    global _worker
    if _worker is None:
        # Imported here because it imports torch, and a process must be able to end before that.
        from saebench.scale.worker import load_worker

        _worker = load_worker(recipe)


def _do(recipe: Recipe, job: Job, corpus: Path | None) -> bytes:
    _loaded(recipe)
    assert _worker is not None
    return _worker.do_with(job, corpus)


def _watch(until: Connection) -> None:
    """End this process when its parent closes the pipe, or ends for any reason."""
    parent = os.getppid()  # of a forked process the fork server, whose end counts too
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process handles Ctrl-C

    def wait_for_end() -> None:
        # Only the parent has the pipe's other end, which is closed when the parent ends.
        while not until.poll(1.0) and os.getppid() == parent:
            pass
        os._exit(0)

    threading.Thread(target=wait_for_end, daemon=True).start()


@contextmanager
def _main_script_hidden() -> Iterator[None]:
    """Keep new processes from importing, and thereby running, the user's script.

    They do not need it, and a script without ``if __name__ == "__main__"`` would start again.
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
