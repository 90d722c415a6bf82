"""Distributions installed for one test: a directory of modules and metadata on ``sys.path``."""

import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copytree

import pytest

from saebench import properties
from saebench.formats.layouts import installed_formats

CACHES = (
    installed_formats, properties.properties, properties._installed, properties._loaded,
)  # fmt: skip


class Site:
    """A directory of installed distributions."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def install(self, name: str, groups: dict[str, str], **modules: str) -> None:
        """Install a distribution with one entry point of its own name in each group."""
        self.declare(name, {group: {name: value} for group, value in groups.items()})
        (self.root / name).mkdir()
        (self.root / name / "__init__.py").touch()
        for module, source in modules.items():
            (self.root / name / f"{module}.py").write_text(source)

    def install_project(self, project: Path, package: str) -> None:
        """Install a package from a directory with a pyproject.toml, as pip would."""
        table = tomllib.loads((project / "pyproject.toml").read_text())["project"]
        self.declare(table["name"], table["entry-points"])
        copytree(project / package, self.root / package)

    def declare(self, name: str, points: dict[str, dict[str, str]]) -> None:
        """Write a distribution's metadata: its entry points by group."""
        info = self.root / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [
            f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in table.items())
            for group, table in points.items()
        ]
        (info / "entry_points.txt").write_text("".join(lines))


@contextmanager
def empty_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Put an empty site on ``sys.path``; afterwards nothing of it stays imported or cached."""
    root = tmp_path / "site"
    root.mkdir()
    monkeypatch.syspath_prepend(str(root))
    _clear_caches()
    yield Site(root)
    _clear_caches()
    installed = {path.name for path in root.iterdir()}
    for name in [m for m in sys.modules if m.partition(".")[0] in installed]:
        del sys.modules[name]


def _clear_caches() -> None:
    for cached in CACHES:
        cached.cache_clear()
