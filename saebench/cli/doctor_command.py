"""``saebench doctor``: whether everything that a run needs is there; nothing is downloaded.

Packages that may be absent are imported inside functions, so that their absence can be reported.
"""

import argparse
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from saebench.errors import SaebenchError
from saebench.options import VARIABLES, unknown_variables
from saebench.store.environment import baselines_dir, benchmarks_dir, thresholds_path
from saebench.text import plain_text

DISTRIBUTION = "pytest-saebench"
OLDEST_PYTHON = (3, 11)
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
LEAST_DISK_GIB = 1.0


class State(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    NOTE = "note"
    MISSING = "MISSING"


@dataclass(frozen=True)
class Finding:
    """One check: its subject, its state, details, and what to do where something is missing."""

    about: str
    state: State
    detail: str
    remedy: str = ""


def checkup() -> Iterator[Finding]:
    """Yield every finding, in the order in which a run would need it."""
    yield _python()
    yield from _packages()
    yield _plugin()
    yield from _devices()
    yield from _shipped()
    yield from _caches()
    yield from _settings()


def _python() -> Finding:
    state = State.OK if sys.version_info >= OLDEST_PYTHON else State.MISSING
    needed = ".".join(map(str, OLDEST_PYTHON))
    return Finding("Python", state, platform.python_version(), f"Python {needed} or newer")


def _packages() -> Iterator[Finding]:
    """Yield every required package, and the optional one for parallel runs."""
    try:
        from packaging.requirements import Requirement

        required = [Requirement(text) for text in metadata.requires(DISTRIBUTION) or ()]
    except metadata.PackageNotFoundError:
        remedy = "pip install -c constraints.txt -e . in the clone"
        yield Finding(DISTRIBUTION, State.MISSING, "not installed, only on the path", remedy)
        return
    except ImportError as error:
        yield Finding("packaging", State.MISSING, str(error), "pip install packaging")
        return
    yield Finding(DISTRIBUTION, State.OK, metadata.version(DISTRIBUTION))
    for each in required:
        if each.marker is None or each.marker.evaluate({"extra": ""}):
            yield _package(each.name, str(each.specifier), each.specifier.contains)
    xdist = _version("pytest-xdist")
    remedy = "pip install pytest-xdist, for -n 2"
    state = State.OK if xdist else State.NOTE
    yield Finding("pytest-xdist", state, xdist or "absent", "" if xdist else remedy)


def _package(name: str, needed: str, fits: "object") -> Finding:
    version = _version(name)
    remedy = f"pip install '{name}{needed}'"
    if version is None:
        return Finding(name, State.MISSING, "absent", remedy)
    if callable(fits) and not fits(version, prereleases=True):
        return Finding(name, State.MISSING, f"{version}, needed is {needed}", remedy)
    return Finding(name, State.OK, version)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _plugin() -> Finding:
    plugins = [e for e in metadata.entry_points(group="pytest11") if e.name == "saebench"]
    if os.environ.get("PYTEST_DISABLE_PLUGIN_AUTOLOAD"):
        remedy = "unset PYTEST_DISABLE_PLUGIN_AUTOLOAD, or pass -p saebench.plugin"
        return Finding("pytest plugin", State.MISSING, "autoload is switched off", remedy)
    if plugins:
        return Finding("pytest plugin", State.OK, plugins[0].value)
    return Finding("pytest plugin", State.MISSING, "not registered", f"pip install {DISTRIBUTION}")


def _devices() -> Iterator[Finding]:
    yield Finding("processor", State.OK, f"{os.cpu_count()} cores, {platform.machine()}")
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("torch", State.MISSING, f"cannot be imported: {error}", "reinstall torch")
        return
    if not torch.cuda.is_available():
        yield Finding("GPU", State.NOTE, "none: runs on the processor")
    for i in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(i).total_memory / 2**30
        yield Finding("GPU", State.OK, f"{torch.cuda.get_device_name(i)}, {memory:.0f} GiB")


def _shipped() -> Iterator[Finding]:
    """Yield the files that belong to saebench itself."""
    benchmarks = list(benchmarks_dir().glob("test_*.py"))
    remedy = f"reinstall {DISTRIBUTION}"
    state = State.OK if benchmarks else State.MISSING
    yield Finding("benchmarks", state, f"{len(benchmarks)} in {benchmarks_dir()}", remedy)
    yield _thresholds(remedy)
    zoo = find_spec("saebench.zoo")
    weights = Path(next(iter(zoo.submodule_search_locations or ())) if zoo else "") / "weights"
    saes = list(weights.glob("saes/*/sae_weights.safetensors"))
    complete = saes and (weights / "model" / "model.safetensors").is_file()
    state = State.OK if complete else State.MISSING
    yield Finding("demo", state, f"{len(saes)} SAEs", remedy)
    yield _leaderboard()


def _thresholds(remedy: str) -> Finding:
    try:
        from saebench.gates.thresholds import read_thresholds
        from saebench.properties import metric_names

        rules = read_thresholds(thresholds_path(None), metrics=metric_names())
    except (SaebenchError, ImportError) as error:
        return Finding("thresholds", State.MISSING, str(error), remedy)
    return Finding("thresholds", State.OK, f"{len(rules)} gates")


def _leaderboard() -> Finding:
    try:
        from saebench.store.leaderboard import FILE, read_leaderboard

        path = baselines_dir() / FILE
        boards = read_leaderboard(path).boards
    except (SaebenchError, ImportError) as error:
        return Finding("leaderboard", State.NOTE, str(error))
    saes = {row.key for board in boards for row in board.rows}
    return Finding("leaderboard", State.OK, f"{len(saes)} SAEs in {path}")


def _caches() -> Iterator[Finding]:
    """Yield the hub's caches of models and data sets, SAELens' registry, and offline flags."""
    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError as error:
        yield Finding("hub cache", State.MISSING, str(error), "pip install huggingface_hub")
        return
    cache = Path(HF_HUB_CACHE)
    for kind in ("models", "datasets"):
        count = len(list(cache.glob(f"{kind}--*"))) if cache.is_dir() else 0
        yield Finding(f"hub {kind}", State.OK, f"{count} in {cache} (SAELens' releases too)")
    if not _writable(cache):
        remedy = "set HF_HOME to a directory that can be written"
        yield Finding("hub cache", State.NOTE, f"{cache} cannot be written", remedy)
    spec = find_spec("sae_lens")
    registry = Path(spec.origin).parent / "pretrained_saes.yaml" if spec and spec.origin else None
    if registry is not None and registry.is_file():
        yield Finding("SAELens registry", State.OK, str(registry))
    elif spec is not None:
        yield Finding("SAELens registry", State.NOTE, "absent: --sae release:sae_id needs it")
    offline = [name for name in OFFLINE if os.environ.get(name, "") not in ("", "0")]
    state = State.NOTE if offline else State.OK
    yield Finding("offline flags", state, ", ".join(offline) or "none: the hub may be asked")


def _settings() -> Iterator[Finding]:
    """Yield what affects a run besides its command line: environment, directory, disk."""
    names = sorted(name for name in os.environ if name.upper().startswith(VARIABLES))
    unknown = unknown_variables(os.environ)
    state = State.NOTE if names else State.OK
    if unknown:
        said = "; ".join(f"{name} is no option's{near}" for name, near in unknown.items())
        yield Finding("environment", State.MISSING, said, f"unset {' '.join(unknown)}")
    else:
        yield Finding("environment", state, ", ".join(names) or "no SAEBENCH_… is set")
    here = Path.cwd()
    if not _writable(here):
        yield Finding("directory", State.NOTE, f"{here} cannot be written", "run elsewhere")
    free = _free_gib(here)
    state = State.OK if free >= LEAST_DISK_GIB else State.NOTE
    yield Finding("disk", state, f"{free:.1f} GiB free in {here}")


def _free_gib(directory: Path) -> float:
    import shutil

    return shutil.disk_usage(directory).free / 2**30


def _writable(path: Path) -> bool:
    """Return whether a directory, or the nearest one above it that exists, can be written."""
    existing = next(each for each in (path, *path.parents) if each.exists())
    return os.access(existing, os.W_OK)


EXAMPLES = """
    saebench doctor
    saebench doctor --quiet            only notes and what is missing
"""
CODES = """
exit codes: 0 a run can start, 1 something that it needs is missing
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--quiet", action="store_true", help="print only notes and what is missing")


def execute(options: argparse.Namespace) -> int:
    """Print the findings, plainly, as rich may be what is missing; 1 where something needed is."""
    findings = list(checkup())
    printed = [each for each in findings if each.state is not State.OK or not options.quiet]
    for line in _lines(printed):
        sys.stdout.write(plain_text(line) + "\n")
    missing = sum(each.state is State.MISSING for each in findings)
    if missing:
        sys.stdout.write(f"\n{missing} of {len(findings)} missing: a run cannot start\n")
    elif not options.quiet:
        sys.stdout.write("\na run can start: saebench run --sae demo:l2-topk --sae-sequences 64\n")
    return int(missing > 0)


def _lines(findings: Sequence[Finding]) -> list[str]:
    width = max((len(each.about) for each in findings), default=0)
    state = max(map(len, State))
    lines = []
    for each in findings:
        lines.append(f"{each.state.value.ljust(state)}  {each.about.ljust(width)}  {each.detail}")
        if each.remedy and each.state is not State.OK:
            lines.append(" " * (state + width + 4) + f"→ {each.remedy}")
    return lines
