"""sae_bench's core evaluation, in an environment of its own: it pins other versions than ours."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import TextIO

from perf.figures import Figures, Runner

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv-perf"
CONSTRAINTS = ROOT / "constraints.txt"
# sae_bench asks for numpy below 2 and datasets below 4, which its core evaluation does not need:
# installed without its dependencies, it runs on our own torch, SAELens and TransformerLens, so
# that the two differ by their own code alone.
NEEDED = ("torch", "sae-lens", "transformer-lens", "tabulate")
PEER = "sae-bench==0.6.0"
SECONDS_TO_END = 30


class PeerUnavailable(Exception):
    """A peer cannot be installed or started here; the message says why."""


@contextmanager
def sae_bench_runner(
    directory: Path, *, threads: int, batch: int, python: Path | None = None
) -> Iterator[Runner]:
    """Start sae_bench's process and give a call that evaluates there once.

    Args:
        directory: model, SAE and tokens.
        threads: of its matrix products.
        batch: sequences at once.
        python: the interpreter of an environment with sae_bench; by default the one made here.

    Raises:
        PeerUnavailable: where it cannot be installed, or cannot evaluate.
    """
    python = python or installed()
    command = [str(python), "-W", "ignore", "-m", "perf.peers.sae_bench_worker", str(directory),
               "--threads", str(threads), "--batch", str(batch)]  # fmt: skip
    with TemporaryFile("w+") as errors, subprocess.Popen(
        command, cwd=ROOT, env=_environment(), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
    ) as process:  # fmt: skip
        worker = _Worker(process, errors)
        try:
            worker.answer()
            yield lambda: Figures(worker.asked())
        finally:
            worker.end()


@dataclass(frozen=True)
class _Worker:
    """A process that answers every line with one line."""

    process: "subprocess.Popen[str]"
    errors: TextIO

    def asked(self) -> dict[str, float]:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it ended: the answer says why
            self.process.stdin.write("run\n")
            self.process.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        self.errors.seek(0)
        said = self.errors.read().strip().splitlines()
        raise PeerUnavailable(f"its process ended: {said[-1] if said else 'without a message'}")

    def end(self) -> None:
        try:
            self.process.communicate(timeout=SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self.process.kill()


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


def installed(venv: Path = VENV) -> Path:
    """Return the interpreter of sae_bench's environment, which is created if it is missing.

    Raises:
        PeerUnavailable: where pip cannot install it.
    """
    python, stamp = venv / "bin" / "python", venv / "installed"
    wanted = " ".join((*NEEDED, PEER)) + "\n" + CONSTRAINTS.read_text(encoding="utf-8")
    # An interpreter that has gone leaves a broken link, which does not exist.
    usable = python.exists() and stamp.exists()
    if usable and stamp.read_text(encoding="utf-8") == wanted:
        return python
    sys.stderr.write(f"installing {PEER} in {venv}, once\n")
    _run([sys.executable, "-m", "venv", "--clear", str(venv)])
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "-c", str(CONSTRAINTS), *NEEDED])
    _run([*pip, "--no-deps", PEER])
    stamp.write_text(wanted, encoding="utf-8")
    return python


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise PeerUnavailable(f"{' '.join(command[1:6])} …: {said[-1] if said else 'failed'}")
