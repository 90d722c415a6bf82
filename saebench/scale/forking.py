"""How worker processes start: forked from one that has imported what they need, where that is safe.

Torch, transformers and SAELens take several seconds to import, and loading a small model takes
less than one. A server imports them once for all workers, while pytest's own process does too.
"""

import importlib
import multiprocessing
import os
import sys
from collections.abc import Mapping
from multiprocessing import forkserver
from multiprocessing.context import BaseContext

# SAELens and the model classes are imported when an SAE and a model are loaded, else.
IMPORTED = (
    "saebench.scale.worker",
    "saebench.judging.preparation",
    "saebench.scale.sharing",
    "transformers.models.auto",
    "transformer_lens",
    "sae_lens",
)
PASSING = "PYTEST_"  # pytest says in the environment which test runs

_server: dict[str, str] | None = None  # the environment that it was started in


def context_for(device: str) -> BaseContext:
    """Return how to start processes that measure on a device, and import here what they import.

    A process that has touched CUDA cannot be forked, and one of macOS had better not be: there
    each worker imports everything for itself.

    Args:
        device: ``auto``, or a torch device.
    """
    forks = sys.platform == "linux" and device in ("auto", "cpu") and _serves()
    if forks and _server is None:
        _start()
    for name in IMPORTED:
        importlib.import_module(name)
    if not forks or (device == "auto" and _has_cuda()):
        return multiprocessing.get_context("spawn")
    return multiprocessing.get_context("forkserver")


def _start() -> None:
    global _server
    _server = _environment(os.environ)
    multiprocessing.set_forkserver_preload(list(IMPORTED))
    forkserver.ensure_running()  # does not wait for what is imported there


def _serves() -> bool:
    """True where there is no server yet, or one of this environment: workers have the server's."""
    return _server is None or _server == _environment(os.environ)


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in given.items() if not name.startswith(PASSING)}


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
