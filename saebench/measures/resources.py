"""Seconds of each stage of a run, and peak memory."""

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
    """Adds up the time of each stage; time outside of all stages is overhead.

    On a GPU, events are recorded and read at the end, so that timing needs no sync.

    Args:
        device: the device that does the work.

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
        """Add the time spent inside the context to a stage; stages do not nest."""
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
    """Return the peak memory of the GPU's allocator, or this process's peak resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def is_out_of_memory(error: BaseException) -> bool:
    """True if an error says that memory ran out, on a GPU or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # torch's CPU allocator has no error class of its own.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
