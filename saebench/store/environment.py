"""Versions and machine of a run, and the directories of what saebench ships."""

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import saebench
from saebench.errors import ThresholdError

PACKAGES = (
    "torch",
    "transformers",
    "transformer-lens",
    "sae-lens",
    "datasets",
    "numpy",
    "scipy",
    "pytest",
)


@cache
def environment() -> dict[str, str]:
    """Return Python's and the packages' versions."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    return versions


@cache
def harness() -> dict[str, str]:
    """Return saebench's version, and its commit where it runs from a clone."""
    return {"version": saebench.__version__, "git": _commit()}


@cache
def machine() -> dict[str, str]:
    """Return processor, cores, memory and GPU."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{memory:.0f} GiB",
        "gpu": _gpu(),
        "platform": platform.platform(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        return "none"
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


def _commit() -> str:
    root = Path(saebench.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return "unknown"
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"


_PACKAGE = Path(__file__).resolve().parent.parent
_SHIPPED = _PACKAGE / "_shipped"  # in an installed package; a clone has the files at its top


def baselines_dir() -> Path:
    """Return the directory of the shipped baselines and thresholds."""
    return (_SHIPPED if _SHIPPED.is_dir() else _PACKAGE.parent) / "baselines"


def benchmarks_dir() -> Path:
    """Return the directory of the benchmark files."""
    return (_SHIPPED if _SHIPPED.is_dir() else _PACKAGE.parent) / "benchmarks"


def baselines_root(rootdir: Path) -> Path:
    """Return where baselines are written: the project's own directory, never the package's."""
    return rootdir / "baselines"


def thresholds_path(given: str | None) -> Path:
    """Return the threshold file to use.

    Raises:
        ThresholdError: where it does not exist.
    """
    path = Path(os.path.expanduser(given)) if given else baselines_dir() / "thresholds.toml"
    if not path.is_file():
        raise ThresholdError(f"--sae-thresholds {path}: no such file")
    return path


def is_shipped(path: Path) -> bool:
    """Return whether a file is part of an installed package."""
    return path.resolve().is_relative_to(_SHIPPED)
