"""Signals to a run: what it leaves behind, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from saebench.scale.rundir import RunDirectory
from saebench.termination import Terminated, sigterm_interrupts

if TYPE_CHECKING:
    from tiny import TinyWorld

COMMAND = [sys.executable, "-c", "import sys; from saebench.cli import main; sys.exit(main())"]
SECONDS = 20  # for processes to end on a machine that is busy


class Run:
    """A ``saebench run`` in shards, with two workers, that takes long enough to be stopped."""

    def __init__(self, tiny: "TinyWorld", root: Path, *args: str) -> None:
        self.json, self.directory = root / "out.json", root / "run"
        options = ["--sae", tiny.good, "--sae-model", tiny.model, "--sae-dataset", tiny.texts]
        size = ["--sae-context", "8", "--sae-shard-sequences", "1", "--sae-worker-threads", "1"]
        out = ["--sae-json", str(self.json), "--sae-run-dir", str(self.directory)]
        command = [*COMMAND, "run", *options, *size, *out, "-q", "-p", "no:cacheprovider", *args]
        self.log = root / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=root, stdout=log, stderr=log)

    def until_shards(self, count: int) -> list[psutil.Process]:
        """Wait for finished shards; return all processes below the run's."""
        end = time.monotonic() + 200
        while len(list(self.directory.glob("shards/*.shard"))) < count:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, "no shard in 200 s"
            time.sleep(0.02)
        return psutil.Process(self.process.pid).children(recursive=True)

    def shards(self) -> dict[str, int]:
        return {p.name: p.stat().st_mtime_ns for p in self.directory.rglob("*.shard")}


@pytest.fixture
def run(tiny: "TinyWorld", tmp_path: Path) -> Iterator[Run]:
    started = Run(tiny, tmp_path, "--sae-workers", "2", "-k", "fidelity or kl_gap")
    yield started
    if started.process.poll() is None:
        started.process.kill()
        started.process.wait()


def test_saebench_run_is_pytest_itself_and_not_its_parent(run: Run):
    run.until_shards(1)
    command = psutil.Process(run.process.pid).cmdline()
    assert command[1:3] == ["-m", "pytest"] or command[2:4] == ["-m", "pytest"], command


def test_a_killed_run_leaves_no_process_no_lock_and_writes_nothing_later(run: Run):
    processes = run.until_shards(2)
    assert len(processes) >= 3  # the fork server and two workers
    run.process.kill()
    run.process.wait()
    with RunDirectory(run.directory).held():  # at once
        pass
    _, alive = psutil.wait_procs(processes, timeout=SECONDS)
    assert not alive
    before = run.shards()
    time.sleep(1)
    assert run.shards() == before
    assert not run.json.exists()


def test_sigterm_ends_a_run_in_order(run: Run):
    processes = run.until_shards(2)
    run.process.send_signal(signal.SIGTERM)
    assert run.process.wait(60) == pytest.ExitCode.INTERRUPTED, run.log.read_text()
    assert "Terminated: SIGTERM: this run was asked to end" in run.log.read_text()
    with RunDirectory(run.directory).held():
        pass
    _, alive = psutil.wait_procs(processes, timeout=SECONDS)
    assert not alive


@pytest.mark.slow
def test_sigterm_keeps_the_cases_that_were_judged(tiny: "TinyWorld", tmp_path: Path):
    run = Run(tiny, tmp_path, "-k", "fidelity or kl_gap")
    end = time.monotonic() + 200
    while "." not in run.log.read_text():  # pytest's dot for the first case
        assert time.monotonic() < end, run.log.read_text()
        time.sleep(0.005)
    run.process.send_signal(signal.SIGTERM)
    assert run.process.wait(60) == pytest.ExitCode.INTERRUPTED, run.log.read_text()
    result = json.loads(run.json.read_text())
    assert result["cases"]
    assert result["run"]["complete"] is False


def test_one_of_xdists_workers_ends_with_its_controller(tiny: "TinyWorld", tmp_path: Path):
    marker = tmp_path / "started"
    (tmp_path / "conftest.py").write_text(
        "import pathlib, time\n\ndef pytest_runtest_setup():\n"
        f"    pathlib.Path({str(marker)!r}).touch()\n    time.sleep(60)\n"
    )
    benchmarks = Path(__file__).resolve().parents[1] / "benchmarks" / "test_sparsity.py"
    (tmp_path / benchmarks.name).write_bytes(benchmarks.read_bytes())
    command = [sys.executable, "-m", "pytest", benchmarks.name, "-n", "1", "-p", "no:cacheprovider",
               "--sae", tiny.good, *tiny.options()]  # fmt: skip
    controller = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 100
    while not marker.exists():
        assert controller.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    workers = psutil.Process(controller.pid).children()
    controller.kill()
    controller.wait()
    _, alive = psutil.wait_procs(workers, timeout=3 if sys.platform == "linux" else SECONDS)
    assert workers
    assert not alive


def test_the_first_sigterm_interrupts_and_a_second_one_is_the_systems():
    with pytest.raises(Terminated, match="SIGTERM"), sigterm_interrupts():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_handler_of_somebody_else_stays():
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        with sigterm_interrupts():
            os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
