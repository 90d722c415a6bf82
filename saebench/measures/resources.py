"""Seconds spent in each stage of a run: where the time goes."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

CLEAN, ENCODE, DECODE, NOISE, RESUME, READOUT, FOLD = STAGES = (
    "clean", "encode", "decode", "noise", "resume", "readout", "fold"
)  # fmt: skip


class Stages:
    """Adds up the time of each stage; what no stage claims is overhead.

    On a GPU, events are recorded and read at the end: the run is never held up to be timed.

    Args:
        device: where the work is done.

    Example:
        >>> stages = Stages(torch.device("cpu"))
        >>> with stages("encode"):
        ...     _ = sum(range(10))
        >>> sorted(stages.seconds())
        ['encode', 'overhead']
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._started = time.perf_counter()
        self._spent: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count what is done inside to a stage; stages do not nest."""
        if self._on_gpu:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            yield
            end.record()
            self._events.append((stage, begin, end))
            return
        begun = time.perf_counter()
        yield
        self._add(stage, time.perf_counter() - begun)

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each stage so far, and ``overhead``: the rest since the start."""
        if self._on_gpu:
            torch.cuda.synchronize()
            for stage, begin, end in self._events:
                self._add(stage, begin.elapsed_time(end) / 1000)
            self._events.clear()
        total = time.perf_counter() - self._started
        return self._spent | {"overhead": max(0.0, total - sum(self._spent.values()))}

    def _add(self, stage: str, seconds: float) -> None:
        self._spent[stage] = self._spent.get(stage, 0.0) + seconds


def peak_bytes(device: torch.device) -> int:
    """Return the high-water mark: of a GPU's allocator, or of this process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def is_out_of_memory(error: BaseException) -> bool:
    """True where an error says that memory ran out, on a GPU or here."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # torch's CPU allocator has no error class of its own.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
