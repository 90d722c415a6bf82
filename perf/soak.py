"""Many runs in one process: memory stays flat, and the same SAE gets the same numbers each time.

``make soak`` judges the demo's SAEs and, where they lie beside the project, the real stories SAEs,
in turn, until fifty runs are done. Each SAE's first run is its reference; memory is compared from
the end of the second round on, when everything that is kept once is there.
"""

import argparse
import gc
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import psutil

import saebench
from saebench.report.page.run_page import run_page
from saebench.zoo import shelf as zoo

RUNS = 50
SEQUENCES = 8
LIGHT = {"prompts": 20, "draws": 8}  # every property runs, none for long
TOLERANCE = 0.05
REAL = Path(__file__).resolve().parents[2] / "shared" / "data"
REAL_SAES = ("l2-standard", "l2-topk16", "l2-shrunken", "l0-standard")


@dataclass(frozen=True)
class Work:
    """One SAE to judge again and again, and what it is judged on."""

    sae: str
    model: str | None = None
    data: str | None = None


@dataclass(frozen=True)
class Lap:
    """What one run left: its number, memory after it, and whether the numbers were the same."""

    number: int
    sae: str
    memory_bytes: int
    seconds: float
    same: bool


def all_work() -> list[Work]:
    """Return the demo's SAEs, mixed with the real ones where they are there."""
    demo = [Work(f"demo:{name}") for name in zoo.names()]
    model, texts = REAL / "models" / "stories260K", REAL / "text" / "tinystories-heldout.jsonl"
    real = [
        Work(str(path), str(model), str(texts))
        for path in (REAL / "saes" / f"stories260K-{name}" for name in REAL_SAES)
        if path.is_dir()
    ]
    mixed = [work for pair in zip(demo, real, strict=False) for work in pair]
    return mixed + demo[len(real) :]


def laps(work: Sequence[Work], *, runs: int, sequences: int, **options: Any) -> Iterator[Lap]:
    """Judge in turn, drawing the report too; give what each run left.

    Args:
        work: what to judge.
        runs: how often, all together.
        sequences: of each run.
        options: further ones of ``saebench.judge``.
    """
    first: dict[str, tuple[Any, ...]] = {}
    for number, each in enumerate(islice(cycle(work), runs), start=1):
        started = time.perf_counter()
        run = saebench.judge(each.sae, each.model, each.data, sequences=sequences, **options)
        run_page(run)
        found = tuple(
            (case.id, case.verdict, case.fingerprint, metric.name, metric.value, metric.ci)
            for case in run.cases
            for metric in case.metrics
        )
        same = bool(found) and first.setdefault(each.sae, found) == found
        del run, found
        seconds = time.perf_counter() - started
        yield Lap(number, each.sae, _memory_bytes(), seconds, same)


def grown(laps: Sequence[Lap], *, warm: int) -> float:
    """Return by what share memory rose after the warm-up, by the medians of both halves.

    Args:
        laps: of all runs.
        warm: how many of them are warm-up.
    """
    after = [lap.memory_bytes for lap in laps[warm:]]
    half = len(after) // 2
    return _median(after[half:]) / _median(after[:half]) - 1


def _median(values: Sequence[int]) -> float:
    return sorted(values)[len(values) // 2]


def _memory_bytes() -> int:
    """Return what the process holds, garbage and what malloc keeps for later given back."""
    gc.collect()
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).malloc_trim(0)
    return psutil.Process().memory_info().rss


def main(argv: Sequence[str] | None = None) -> int:
    """Soak, say what came of it, and return 1 where memory grew or a number changed."""
    parser = argparse.ArgumentParser(prog="python -m perf.soak", description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--sequences", type=int, default=SEQUENCES)
    options = parser.parse_args(argv)
    work = all_work()
    done = []
    for lap in laps(work, runs=options.runs, sequences=options.sequences, **LIGHT):
        done.append(lap)
        said = "same" if lap.same else "CHANGED"
        sys.stdout.write(
            f"{lap.number:3} {Path(lap.sae).name:24} {lap.memory_bytes / 2**20:7.0f} MiB "
            f"{lap.seconds:6.1f} s  {said}\n"
        )
        sys.stdout.flush()
    warm = min(len(work), len(done) // 3)
    growth = grown(done, warm=warm)
    peak = max(lap.memory_bytes for lap in done[warm:])
    start = done[warm - 1].memory_bytes
    changed = [lap.sae for lap in done if not lap.same]
    sys.stdout.write(
        f"{len(done)} runs of {len(work)} SAEs: after {warm} runs {start / 2**20:.0f} MiB, at most "
        f"{peak / 2**20:.0f} MiB after that ({peak / start - 1:+.1%}), halves {growth:+.1%}; "
        f"{len(changed)} runs with other numbers\n"
    )
    return int(bool(changed) or peak / start - 1 > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
