"""Workers that are processes of this machine; one that dies is replaced."""

import multiprocessing
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from saebench.errors import StoreError
from saebench.scale.worker import Job, Recipe, Worker, load_worker

TRIES = 4  # a killed process takes down the jobs of all: each of them counts it
AHEAD = 2  # jobs of each worker that wait or run: no more results than that come at once

_worker: Worker | None = None


class Processes:
    """Does jobs in processes of this machine.

    Args:
        recipe: what each of them loads.
        workers: how many.
    """

    def __init__(self, recipe: Recipe, *, workers: int) -> None:
        self._recipe = recipe
        self._workers = workers
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
                path = corpora.get(job.corpus) if job.corpus else None
                flying[self._pool.submit(_do, self._recipe, job, path)] = job
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

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _replace(self, again: Iterable[Job], tries: Counter[int]) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
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
        pool = ProcessPoolExecutor(
            self._workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_watch,
            initargs=(os.getpid(),),
        )
        # A process starts with a job that finds none idle: so all load at once, and not when
        # the first pass over the corpus is over. What goes wrong, the jobs will tell.
        for _ in range(self._workers):
            pool.submit(_loaded, self._recipe)
        return pool


def _loaded(recipe: Recipe) -> None:
    global _worker
    if _worker is None:
        _worker = load_worker(recipe)


def _do(recipe: Recipe, job: Job, corpus: Path | None) -> bytes:
    _loaded(recipe)
    assert _worker is not None
    return _worker.do_with(job, corpus)


def _watch(parent: int) -> None:
    """End with the process that started this one, however that ends."""

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()
