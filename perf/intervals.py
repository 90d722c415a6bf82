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
    seconds = []
    for _ in range(TIMES):
        started = time.process_time()
        for found in sample_all(wanted, table).values():
            found.interval()
        seconds.append(time.process_time() - started)
    Console().print(
        f"{METRICS} metrics of {SEQUENCES} sequences: {min(seconds[1:]):.3f} s of CPU time; "
        f"{seconds[0]:.3f} s where the resamples are drawn too, once in a run"
    )


if __name__ == "__main__":
    main()
