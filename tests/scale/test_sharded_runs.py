"""Whole runs in shards: through this process, several, and Ray; killed, damaged, and resumed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import saebench.scale.sharded  # noqa: F401  pytester forgets what is first imported inside a run

if TYPE_CHECKING:
    from conftest import Gate
    from tiny import TinyWorld

SHARDS = ("--sae-shard-sequences", "5", "--sae-worker-threads", "1")


def _numbers(result: dict[str, Any]) -> Any:
    """Return what a run found, without when and how long."""
    for case in result["cases"]:
        case.pop("duration_s")
    return [result["cases"], result["datasets"], result["saes"]]


def _judged(gate_run: "Gate", *args: str) -> Any:
    done = gate_run.judge("--sae", gate_run.tiny.good, *SHARDS, *args)
    assert done.ret == 0, done.stdout.str() + done.stderr.str()
    return _numbers(gate_run.result())


def _metrics(numbers: Any) -> dict[str, float]:
    every = [m for case in numbers[0] for m in case["metrics"]]
    return {m["name"]: m["value"] for m in every if m["value"] is not None}


def _files(directory: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in (directory / "shards").iterdir()}


@pytest.fixture
def in_shards(gate_run: "Gate", tmp_path: Path) -> tuple[Any, Path]:
    """A run in shards in this process, and its directory."""
    return _judged(gate_run, "--sae-run-dir", str(tmp_path / "run")), tmp_path / "run"


def test_a_run_in_shards_finds_what_a_whole_run_finds(gate_run: "Gate", in_shards: Any):
    done = gate_run.judge("--sae", gate_run.tiny.good)
    assert done.ret == 0
    whole, parts = _metrics(_numbers(gate_run.result())), _metrics(in_shards[0])
    assert set(whole) == set(parts)
    for name, value in whole.items():
        # Differences of KLs that nearly cancel keep fewer digits.
        assert parts[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


def test_two_processes_find_the_same_bits(gate_run: "Gate", in_shards: Any):
    assert _judged(gate_run, "--sae-workers", "2") == in_shards[0]


def test_the_same_command_again_measures_nothing_and_finds_the_same(
    gate_run: "Gate", in_shards: Any
):
    before, directory = in_shards
    files = _files(directory)
    assert len(files) >= 5
    again = _judged(gate_run, "--sae-run-dir", str(directory), "--sae-rerun", "never")
    assert again == before
    assert _files(directory) == files


def test_a_missing_and_a_damaged_shard_alone_are_measured_again(gate_run: "Gate", in_shards: Any):
    before, directory = in_shards
    shards = sorted((directory / "shards").iterdir())
    files = _files(directory)
    shards[0].unlink()
    data = bytearray(shards[1].read_bytes())
    data[len(data) // 2] ^= 0xFF
    shards[1].write_bytes(bytes(data))
    done = gate_run.judge("--sae", gate_run.tiny.good, *SHARDS, "--sae-run-dir", str(directory))
    assert _numbers(gate_run.result()) == before
    assert "1 damaged shard in" in done.stdout.str()
    after = _files(directory)
    assert {name for name in after if after[name] != files.get(name)} == {
        shards[0].name, shards[1].name
    }  # fmt: skip


def test_never_refuses_what_is_missing(gate_run: "Gate", in_shards: Any):
    _, directory = in_shards
    for file in (directory / "shards").iterdir():
        file.unlink()
    gate_run.json.unlink(missing_ok=True)
    options = ("--sae-run-dir", str(directory), "--sae-rerun", "never")
    done = gate_run.judge("--sae", gate_run.tiny.good, *SHARDS, *options)
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    assert "--sae-rerun never:" in done.stdout.str()
    assert not gate_run.json.exists()


def test_a_run_that_goes_on_opens_each_kept_shard_once(
    gate_run: "Gate", in_shards: Any, monkeypatch: pytest.MonkeyPatch
):
    from saebench.scale import rundir

    opened, split = Counter[Path](), rundir._split

    def counted(path: Path) -> tuple[bytes, bytes]:
        opened[path] += 1
        return split(path)

    monkeypatch.setattr(rundir, "_split", counted)
    _judged(gate_run, "--sae-run-dir", str(in_shards[1]))
    assert len(opened) >= 5
    assert set(opened.values()) == {1}


def _fidelity(gate_run: "Gate", *args: str) -> tuple[Any, dict[str, str]]:
    """Judge fidelity alone; return the numbers, and each case's verdict."""
    gate_run.judge(*SHARDS, "-k", "fidelity", *args)
    numbers = _numbers(gate_run.result())
    return numbers, {case["sae"]: case["verdict"] for case in numbers[0]}


@pytest.fixture
def one_failed(gate_run: "Gate", tmp_path: Path) -> tuple[tuple[str, ...], Any, Path, set[str]]:
    """A run of which one SAE failed: its options, numbers, directory, and that SAE's shards."""
    worse = gate_run.tiny.copy_of(gate_run.tiny.bad, tmp_path / "worse", metadata__context_size=10)
    alone, run = tmp_path / "alone", tmp_path / "run"
    _fidelity(gate_run, "--sae", str(worse), "--sae-run-dir", str(alone))
    options = ("--sae", gate_run.tiny.good, "--sae", str(worse), "--sae-run-dir", str(run))
    numbers, verdicts = _fidelity(gate_run, *options)
    assert verdicts == {"good": "PASS", "worse": "FAIL"}
    return options, numbers, run, set(_files(alone))


def test_failed_measures_again_what_failed_and_keeps_the_rest(gate_run: "Gate", one_failed: Any):
    options, before, run, its_own = one_failed
    files = _files(run)
    again, _ = _fidelity(gate_run, *options, "--sae-rerun", "failed")
    assert again == before
    after = _files(run)
    assert {name for name in after if after[name] != files.get(name)} == its_own
    assert its_own < set(files) == set(after)


def test_failed_that_was_stopped_goes_on_and_does_not_begin_anew(
    gate_run: "Gate", one_failed: Any, monkeypatch: pytest.MonkeyPatch
):
    from saebench.errors import StoreError
    from saebench.scale.rundir import RunDirectory

    options, before, run, its_own = one_failed
    written: list[str] = []
    write = RunDirectory.write

    def stopped(self: RunDirectory, key: str, data: bytes) -> None:
        if len(written) == 3:
            raise StoreError("stopped here")
        write(self, key, data)
        written.append(f"{key}.shard")

    with monkeypatch.context() as patched:
        patched.setattr(RunDirectory, "write", stopped)
        gate_run.judge(*SHARDS, "-k", "fidelity", *options, "--sae-rerun", "failed")
    assert set(written) < its_own
    kept = _files(run)
    again, _ = _fidelity(gate_run, *options, "--sae-rerun", "failed")
    assert again == before
    after = _files(run)
    assert {name for name in after if after[name] != kept.get(name)} == its_own - set(written)


def test_failed_where_nothing_failed_measures_nothing(gate_run: "Gate", in_shards: Any):
    before, directory = in_shards
    files = _files(directory)
    assert _judged(gate_run, "--sae-run-dir", str(directory), "--sae-rerun", "failed") == before
    assert _files(directory) == files


def test_controls_are_shared_out_too(gate_run: "Gate", monkeypatch: pytest.MonkeyPatch):
    from saebench.experiments.control_saes import ControlsMeasurer

    benchmarks = Path(__file__).resolve().parents[2] / "benchmarks"
    shutil.copy(benchmarks / "test_controls.py", gate_run.pytester.path / "benchmarks")
    assert gate_run.judge("--sae", gate_run.tiny.good, "-k", "controls").ret == 0
    whole = _metrics(_numbers(gate_run.result()))
    measure = ControlsMeasurer.measure

    def in_parts_alone(self: ControlsMeasurer, *args: Any, **options: Any) -> Any:
        assert self.bench.rows is not None, args
        return measure(self, *args, **options)

    monkeypatch.setattr(ControlsMeasurer, "measure", in_parts_alone)
    parts = _metrics(_judged(gate_run, "-k", "controls"))
    assert set(parts) == set(whole) != set()
    for name, value in whole.items():
        assert parts[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


def test_another_seed_shares_no_shard(gate_run: "Gate", in_shards: Any):
    before, directory = in_shards
    count = len(_files(directory))
    other = _judged(gate_run, "--sae-run-dir", str(directory), "--sae-seed", "1")
    assert other != before
    assert len(_files(directory)) > count


def test_a_directory_in_use_is_refused_and_nothing_is_written(gate_run: "Gate", tmp_path: Path):
    from saebench.scale.rundir import RunDirectory

    with RunDirectory(tmp_path / "run").held():
        told = gate_run.refused("--sae", gate_run.tiny.good, "--sae-run-dir", str(tmp_path / "run"))
    assert f"in use by process {os.getpid()} on" in told


def test_a_directory_that_cannot_be_written_is_refused(gate_run: "Gate", tmp_path: Path):
    (tmp_path / "file").write_text("")
    told = gate_run.refused("--sae", gate_run.tiny.good, "--sae-run-dir", str(tmp_path / "file/x"))
    assert "cannot be written" in told


def test_a_full_disk_ends_the_run_and_keeps_the_shards(
    gate_run: "Gate", in_shards: Any, monkeypatch: pytest.MonkeyPatch
):
    before, directory = in_shards
    kept = sorted((directory / "shards").iterdir())
    for file in kept[2:]:
        file.unlink()

    def full(path: Path, data: bytes) -> None:
        from saebench.errors import StoreError

        raise StoreError(f"{path}: cannot be written: No space left on device")

    command = ("--sae", gate_run.tiny.good, *SHARDS, "--sae-run-dir", str(directory))
    with monkeypatch.context() as patched:
        patched.setattr("saebench.scale.rundir.write_file", full)
        done = gate_run.judge(*command)
    assert done.ret not in (0, 1)
    assert "No space left on device" in done.stdout.str() + done.stderr.str()
    assert sorted((directory / "shards").iterdir()) == kept[:2]
    assert gate_run.judge(*command).ret == 0
    assert _numbers(gate_run.result()) == before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--sae-workers", "0"), "--sae-workers must be 1 or more, found 0"),
        (("--sae-engine", "rya"), "--sae-engine: unknown value 'rya'; did you mean 'ray'?"),
        (("--sae-rerun", "always"), "--sae-rerun always: of which run?"),
        (("--sae-rerun", "faild"), "--sae-rerun: unknown value 'faild'; did you mean 'failed'?"),
        (("--sae-ray-address", "auto"), "--sae-ray-address is Ray's: give --sae-engine ray too"),
        (("--sae-engine", "ray", "--sae-worker-gpus", "x"), "expected a number, found 'x'"),
        (("--sae-engine", "ray", "--sae-worker-gpus", "-1"), "must be 0 or more, found -1"),
    ],
)
def test_options_that_cannot_be_are_refused(gate_run: "Gate", options: Any, told: str):
    assert told in gate_run.refused("--sae", gate_run.tiny.good, *options)


class Commands:
    """Runs the benchmarks as a user does, in a process of its own."""

    def __init__(self, tiny: "TinyWorld", root: Path) -> None:
        self._tiny = tiny
        self.out = root / "out.json"
        self.run_dir = root / "run"

    def start(self, *args: str) -> subprocess.Popen[str]:
        benchmarks = Path(__file__).resolve().parents[2] / "benchmarks"
        chosen = [str(benchmarks / f"test_{name}.py") for name in ("fidelity", "kl_gap")]
        command = [
            sys.executable, "-m", "pytest", *chosen, "-q", "-p", "no:cacheprovider",
            "--sae", self._tiny.good, *self._tiny.options(), "--sae-run-dir", str(self.run_dir),
            "--sae-shard-sequences", "2", "--sae-worker-threads", "1",
            "-k", "not single", "--sae-json", str(self.out), *args,
        ]  # fmt: skip
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def finish(self, *args: str) -> Any:
        done = self.start(*args)
        told, _ = done.communicate(timeout=300)
        assert done.returncode == 0, told
        return _numbers(json.loads(self.out.read_text()))

    def shards(self) -> int:
        return len(list(self.run_dir.glob("shards/*.shard")))

    def until(self, holds: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
        end = time.monotonic() + 200
        while time.monotonic() < end:
            found = holds()
            if found:
                return found
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.01)
        raise AssertionError("nothing happened in 200 s")

    def forget(self) -> None:
        for file in self.run_dir.glob("shards/*.shard"):
            file.unlink()


@pytest.fixture
def commands(tiny: "TinyWorld", tmp_path: Path) -> Commands:
    return Commands(tiny, tmp_path)


def _workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the processes that measure: not multiprocessing's tracker of resources."""
    found = psutil.Process(process.pid).children(recursive=True)
    return [p for p in found if p.ppid() != process.pid]  # they are the fork server's


@pytest.mark.slow
def test_one_worker_and_two_and_a_killed_one_give_the_same_bits(commands: Commands):
    expected = commands.finish("--sae-workers", "1")
    commands.forget()
    process = commands.start("--sae-workers", "2")
    commands.until(lambda: commands.shards() >= 3, process)
    _workers(process)[0].send_signal(signal.SIGKILL)
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 0, told
    assert _numbers(json.loads(commands.out.read_text())) == expected


@pytest.mark.slow
def test_the_run_itself_killed_goes_on_where_it_stopped(commands: Commands):
    expected = commands.finish()
    commands.forget()
    commands.out.unlink()
    process = commands.start("--sae-workers", "2")
    commands.until(lambda: commands.shards() >= 3, process)
    workers = _workers(process)
    process.kill()
    process.communicate()
    assert not commands.out.exists()
    kept = _files(commands.run_dir)
    gone, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
    assert len(gone) == 2
    assert commands.finish("--sae-workers", "1") == expected
    after = _files(commands.run_dir)
    assert len(after) > len(kept) >= 3
    assert all(after[name] == when for name, when in kept.items())
