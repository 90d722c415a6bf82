"""Calls timed by turns: what slows the machine down for a while slows all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from perf.figures import Figures, Runner

STATISTICS: dict[str, Callable[[tuple[float, ...]], float]] = {
    "min": min,
    "median": statistics.median,
}


def wall() -> float:
    """Return seconds, once a GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


# Processor time leaves out what others do on the machine, and adds up the threads.
CLOCKS: dict[str, Callable[[], float]] = {"wall": wall, "cpu": time.process_time}


@dataclass(frozen=True)
class Timed:
    """One call's figures, and how long it took each time; the warm-up is not among them."""

    figures: Figures
    seconds: tuple[float, ...]


def by_turns(
    runners: Mapping[str, Runner],
    *,
    repeats: int,
    between: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = wall,
) -> dict[str, Timed]:
    """Call each once to warm up, then all by turns.

    Args:
        runners: the calls, by name.
        repeats: timed calls of each.
        between: called after each round, untimed.
        clock: gives seconds.

    Example:
        >>> found = by_turns({"a": lambda: Figures({"kl.sae": 1.0})}, repeats=2)
        >>> len(found["a"].seconds)
        2
    """
    figures = {name: run() for name, run in runners.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(repeats):
        for name, run in runners.items():
            start = clock()
            run()
            seconds[name].append(clock() - start)
        between()
    return {name: Timed(figures[name], tuple(seconds[name])) for name in runners}
