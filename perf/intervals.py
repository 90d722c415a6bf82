"""How long intervals take: 40 metrics of 512 sequences, 10,000 resamples (target 0.2 s).

``python -m perf.intervals``
"""

import time

import numpy as np
from rich.console import Console

from saebench.statistics.bootstrap import Wanted, sample_all

SEQUENCES, METRICS, TIMES = 512, 40, 5


def made_up() -> tuple[dict[str, Wanted], dict[str, np.ndarray]]:
    """Return the metrics, each a ratio of two sums, and per-sequence sums to make them of."""
    rng = np.random.default_rng(0)
    table = {"n": rng.integers(64, 128, SEQUENCES).astype(float)}
    hard = rng.lognormal(0, 0.7, SEQUENCES)
    for i in range(METRICS):
        table[f"c{i}"] = hard * rng.lognormal(0, 0.3, SEQUENCES) * table["n"]
    wanted = {
        f"m{i}": Wanted(lambda s, c=f"c{i}": s[c] / s["n"], (f"c{i}", "n")) for i in range(METRICS)
    }
    return wanted, table


def main() -> None:
    """Print the first time, which draws the resamples, and the best of the others."""
    wanted, table = made_up()
    first = _seconds(wanted, table)
    later = min(_seconds(wanted, table) for _ in range(TIMES))
    shown = [f"{wall:.3f} s ({cpu:.3f} s of CPU time)" for wall, cpu in (first, later)]
    Console(width=120).print(
        f"{METRICS} metrics of {SEQUENCES} sequences: {shown[0]}, resamples drawn too, which is "
        f"once in a run; then {shown[1]}"
    )


def _seconds(wanted: dict[str, Wanted], table: dict[str, np.ndarray]) -> tuple[float, float]:
    """Return how long all intervals take, by the clock and of the processor's time."""
    wall, cpu = time.perf_counter(), time.process_time()
    for found in sample_all(wanted, table).values():
        found.interval()
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    main()
