"""Workers that are processes: they end when they should, and one that died is not missed."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from saebench.errors import StoreError, SubjectError
from saebench.experiments.base import SEQUENCES
from saebench.experiments.codec import decode
from saebench.experiments.prepare import prepare
from saebench.options import Scale, Settings
from saebench.scale.jobs import Job, Recipe, recipe_of
from saebench.scale.processes import TRIES, Processes
from saebench.scale.shards import Group, identity
from saebench.subjects.references import find_subjects

if TYPE_CHECKING:
    from tiny import TinyWorld

GROUP = Group(0, SEQUENCES, ((("good",), (("sae",), (), ())),))


def _workers() -> list[psutil.Process]:
    """Return the processes that measure: neither the fork server nor the tracker of resources."""
    found = psutil.Process().children(recursive=True)
    return [p for p in found if p.ppid() != os.getpid() or "spawn_main" in " ".join(p.cmdline())]


def _nothing(tmp_path: Path) -> Recipe:
    return recipe_of(Scale(workers=1), Settings(), [str(tmp_path / "nothing")], [])


def test_a_process_that_still_imports_torch_ends_with_its_crew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Where the environment is not that of the fork server, it begins with nothing."""
    monkeypatch.setattr("saebench.scale.processes._server", {"OTHER": "environment"})
    before = set(_workers())
    crew = Processes(_nothing(tmp_path), workers=1)
    (worker,) = set(_workers()) - before
    crew.close()
    assert not worker.is_running()


def test_what_cannot_be_loaded_is_told_by_the_jobs(tmp_path: Path):
    crew = Processes(_nothing(tmp_path), workers=1)
    try:
        with pytest.raises(SubjectError, match="nothing"):
            list(crew.run([Job(0, GROUP, (0, 1), "")], {}))
    finally:
        crew.close()


@pytest.mark.slow
def test_a_process_that_died_while_nobody_waited_is_replaced(tiny: "TinyWorld"):
    settings = Settings(model=tiny.model, dataset=tiny.texts, sequences=4)
    references = find_subjects([tiny.good])
    (bench,) = prepare(settings, references)
    jobs = [Job(i, GROUP, (i, i + 1), identity(bench, GROUP, threads=1)) for i in range(3)]
    crew = Processes(recipe_of(Scale(workers=1), settings, [tiny.good], references), workers=1)
    try:
        found = crew.run(jobs, {})
        numbers = [next(found)[0].number]
        for worker in _workers():
            os.kill(worker.pid, signal.SIGKILL)
            worker.wait(20)
        for job, data in found:
            assert decode(data)["results"].measurements["good"].sums.sequences == 1
            numbers.append(job.number)
        assert sorted(numbers) == [0, 1, 2]
    finally:
        crew.close()


@pytest.fixture
def unanswered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make the fork server end without an answer, as often as the only entry says."""
    from multiprocessing import forkserver

    left, answer = [0], forkserver.connect_to_new_process

    def connect(fds: list[int]) -> tuple[int, int]:
        if left[0]:
            left[0] -= 1
            raise EOFError("unexpected EOF")
        return answer(fds)

    monkeypatch.setattr("multiprocessing.forkserver.connect_to_new_process", connect)
    # Whichever environment an earlier test's server has: else workers are not forked from it.
    monkeypatch.setattr("saebench.scale.processes._server", None)
    return left


def test_a_fork_server_that_was_killed_while_loading_is_started_again(
    tmp_path: Path, unanswered: list[int]
):
    unanswered[0] = TRIES - 1
    crew = Processes(_nothing(tmp_path), workers=1)
    try:
        assert unanswered == [0]
        with pytest.raises(SubjectError, match="nothing"):
            list(crew.run([Job(0, GROUP, (0, 1), "")], {}))
    finally:
        crew.close()


def test_a_fork_server_that_never_loads_is_an_error_with_the_next_step(
    tmp_path: Path, unanswered: list[int]
):
    unanswered[0] = 10**6
    with pytest.raises(StoreError, match=rf"starts workers died {TRIES} times .*fewer --sae-work"):
        Processes(_nothing(tmp_path), workers=1)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal is Linux's")
def test_a_fork_server_that_still_imports_ends_with_its_parent(tmp_path: Path):
    """Its parent is killed right after it has started the server, which takes seconds to load."""
    script = (
        "import os, signal, sys, saebench.scale.processes as p\n"
        "from multiprocessing import forkserver\n"
        "p._start()\n"
        "print(forkserver._forkserver._forkserver_pid, flush=True)\n"
        "import time; time.sleep(0.5)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    server = int(done.stdout)
    gone, alive = psutil.wait_procs([p for p in [_process(server)] if p is not None], timeout=2)
    assert not alive


def _process(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None
