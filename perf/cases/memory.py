"""Memory beyond the weights, each in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

from perf.outcome import Outcome, Target, row
from perf.workload import Workload

ROOT = Path(__file__).resolve().parents[2]
MB = 1e6
LIMIT_MB = 400.0
LIMIT = f"limit of {LIMIT_MB:g} MB"
SAELENS = "SAELens run_evals"


def run(workload: Workload) -> Outcome:
    """Measure the core batch's peak, ours and SAELens'."""
    size, judges = workload.size, workload.settings.judges
    title = f"memory beyond the weights; {size.memory_sequences} × {size.context} tokens"
    if not Path("/proc/self/clear_refs").exists():
        why = "the peak is read from Linux' /proc, which is not here"
        return Outcome("memory", title, (), left_out={"memory": why})
    ours, theirs = (_peak_mb(workload, of) for of in ("ours", "saelens"))
    below = row(
        LIMIT, (ours, LIMIT_MB), unit="MB", ratio=ours / LIMIT_MB,
        target=Target(at_most=1), judges=judges,
    )  # fmt: skip
    against = row(
        SAELENS, (ours, theirs), unit="MB", ratio=theirs / ours, target=None, judges=judges
    )
    return Outcome("memory", title, (below, against))


def _peak_mb(workload: Workload, of: str) -> float:
    """Return the peak of a process that measures once, above what it used before."""
    command = [sys.executable, "-W", "ignore", "-m", "perf.memory_probe", of,
               str(workload.directory), "--sequences", str(workload.size.memory_sequences),
               "--size", workload.settings.size,
               "--threads", str(workload.settings.threads)]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return (found["peak_bytes"] - found["before_bytes"]) / MB
