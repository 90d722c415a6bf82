"""The stored baselines that a command reads, and the definitions of their metrics."""

import argparse
import os
from pathlib import Path

from saebench.errors import OptionError, nearest
from saebench.properties import properties
from saebench.properties.base import MetricSpec
from saebench.records.boards import Facts
from saebench.store.environment import baselines_dir, baselines_root
from saebench.store.leaderboard import baseline_paths


def add_baselines_option(parser: argparse.ArgumentParser) -> None:
    """Declare ``--baselines``."""
    parser.add_argument(
        "--baselines",
        metavar="DIR",
        help="the baselines directory (default: ./baselines, else the one shipped with saebench)",
    )


def chosen_baselines(options: argparse.Namespace) -> Path:
    """Return the baselines directory that the options mean.

    Raises:
        OptionError: where it is no directory.
    """
    if options.baselines is None:
        here = baselines_root(Path.cwd())
        return here if here.is_dir() else baselines_dir()
    path = Path(os.path.expanduser(options.baselines))
    if not path.is_dir():
        raise OptionError(f"--baselines {path}: no such directory")
    return path


def shown_path(path: Path) -> str:
    """Return a path as one would type it: relative where it is in the current directory."""
    absolute, here = path.absolute(), Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(path)


def stored_baseline(name: str, root: Path) -> Path:
    """Return the baseline file that a name or path means.

    Args:
        name: a path, an SAE's id, or ``id@sha`` with a prefix of the sha that is unique.
        root: the baselines directory.

    Raises:
        OptionError: where there is none, or several.
    """
    path = Path(os.path.expanduser(name))
    if path.suffix == ".json" or os.sep in name:
        if path.is_file():
            return path
        raise OptionError(f"{path}: no such file")
    known = baseline_paths(root)
    named = [path for path in known if name in (path.stem, path.stem.rpartition("@")[0])]
    if not named and "@" in name:
        named = [path for path in known if path.stem.startswith(name)]
    if len(named) == 1:
        return named[0]
    if not named:
        names = {path.stem.rpartition("@")[0] for path in known}
        raise OptionError(f"{name}: no file, and no baseline in {root}{_or_none(name, names)}")
    raise OptionError(
        f"{name}: several baselines have that name; give the file: "
        f"{', '.join(map(shown_path, named))}"
    )


def _or_none(name: str, names: set[str]) -> str:
    return nearest(name, names) if names else ", which holds no baselines"


def known_specs() -> dict[str, MetricSpec]:
    """Return every metric's definition by name."""
    return {spec.name: spec for each in properties().values() for spec in each.metrics}


def known_facts() -> dict[str, Facts]:
    """Return every metric's unit and direction by name."""
    specs = known_specs()
    return {name: Facts(s.unit, s.direction, s.target) for name, s in specs.items()}
