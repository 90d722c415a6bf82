"""SPEC → the SAEs it names. Looks at files and headers only: no torch, nothing is loaded."""

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from saebench.errors import SubjectError, nearest
from saebench.shown import is_unicode, plain_text
from saebench.subjects.loaders.files import PICKLES
from saebench.subjects.loaders.foreign import described, refused_pickle
from saebench.subjects.loaders.nearby import what_is_there
from saebench.subjects.loaders.protocol import Loader
from saebench.subjects.loaders.recognition import EXPECTED, place_of, recognise
from saebench.subjects.metadata import Overrides, SubjectMetadata, parse_metadata

CONTROLS = ("identity", "permuted_decoder", "random_init", "l0_matched_random", "scaled")
CONTROL_BASE = "l2-standard"  # of the demo


@dataclass(frozen=True)
class SubjectReference:
    """One SAE, not loaded yet.

    Attributes:
        id: a short name, unique in the run; test ids and tables show it.
        source: the SPEC that led here.
        directory: where it lies, a checkpoint's own file, or None for a registry or hub reference.
        repository: the SAELens release or hub repository, else None.
        path: the SAE's id in the release, or its folder in the repository.
        config: what its directory says of it; None where that is known only once it is loaded.
        loader: its directory's layout, or None for a registry or hub reference.
        model: the host model that comes with it, where one does.
        summary: one line for listings.
        control: the negative control to make of it, where it is not judged itself.
        is_demo: it is one of the embedded zoo, which brings its own texts.
    """

    id: str
    source: str
    directory: Path | None = None
    repository: str | None = None
    path: str | None = None
    config: dict[str, Any] | None = None
    loader: Loader | None = None
    model: str | None = None
    is_demo: bool = False
    control: str | None = None
    summary: str = ""

    def metadata(self, overrides: Overrides) -> SubjectMetadata | None:
        """Return the checked metadata, or None where it is known only after loading."""
        if self.config is None:
            return None
        return parse_metadata(self.config, overrides, where=self.where)

    @property
    def where(self) -> str:
        """What a message about its metadata cites: the configuration file, if there is one."""
        file = "" if self.loader is None else self.loader.config_file
        inside = file and not (self.directory is not None and self.directory.is_file())
        return f"{self.source}/{file}" if inside else self.source


def find_subjects(specs: Iterable[str]) -> tuple[SubjectReference, ...]:
    """Return the SAEs that the SPECs name, each once, with unique ids.

    Args:
        specs: a directory, a checkpoint, a glob of them, ``release:sae_id``, ``org/repo:path``,
            ``demo`` or ``demo:NAME``.

    Raises:
        SubjectError: for a SPEC that names no SAE, or one that cannot be one.
    """
    found: dict[str, SubjectReference] = {}
    for spec in specs:
        for reference in _expand(spec):
            place = reference.directory.resolve() if reference.directory else reference.source
            place = f"{place}+{reference.control}"
            found.setdefault(str(place), reference)
    return _with_unique_ids(list(found.values()))


def _expand(spec: str) -> Iterator[SubjectReference]:
    if "\0" in spec:
        raise SubjectError(f"--sae {spec!r}: a path has no NUL character")
    path = Path(os.path.expanduser(spec))
    try:
        path.exists()
    except OSError as error:
        raise SubjectError(f"--sae {spec}: {error.strerror}") from error
    if spec == "demo" or spec.startswith("demo:"):
        yield from _demo(spec)
    elif path.is_dir():
        yield _directory(path, spec)
    elif path.exists():
        yield _file(path, spec)
    elif glob.has_magic(spec):
        yield from _matching(spec)
    elif ":" in spec and not spec.startswith((os.sep, ".")):
        repository, _, inner = spec.partition(":")
        yield SubjectReference(id=spec, source=spec, repository=repository, path=inner)
    else:
        raise SubjectError(
            f"--sae {spec}: no such directory; expected a SAELens directory (cfg.json and "
            "sae_weights.safetensors) or another known one (docs/loaders.md), a glob of them, "
            "release:sae_id, or org/repo:path"
        )


def _demo(spec: str) -> Iterator[SubjectReference]:
    from saebench.subjects.demo import zoo

    _, _, name = spec.partition(":")
    if name.startswith("control"):
        yield from _demo_controls(name.partition("-")[2])
        return
    for each in [name] if name else zoo.names():
        reference = _directory(zoo.sae_path(each), f"demo:{each}")
        yield replace(
            reference,
            id=each,
            model=str(zoo.model_path()),
            is_demo=True,
            summary=zoo.describe(each).partition(": ")[2],
        )


def _demo_controls(name: str) -> Iterator[SubjectReference]:
    """Give the zoo's control of that name, or all of them."""
    base = next(iter(_demo(f"demo:{CONTROL_BASE}")))
    if name and name not in CONTROLS:
        raise SubjectError(f"demo:control-{name}: no such control{nearest(name, CONTROLS)}")
    for each in [name] if name else CONTROLS:
        yield replace(
            base,
            id=f"control-{each}",
            source=f"demo:control-{each}",
            control=each,
            summary=f"made of {CONTROL_BASE} at run time",
        )


def _matching(pattern: str) -> list[SubjectReference]:
    paths = [Path(p) for p in sorted(glob.glob(os.path.expanduser(pattern)))]
    directories = [p for p in paths if p.is_dir()]
    files = [place_of(p) for p in paths if p.is_file()]
    known = [p for p in directories if recognise(p) is not None] + [p for p in files if p]
    if not known:
        raise SubjectError(
            f"--sae {pattern}: matches {len(directories)} directories, none with an SAE; {EXPECTED}"
        )
    return [_directory(p, str(p)) for p in dict.fromkeys(known)]


def _file(path: Path, spec: str) -> SubjectReference:
    """Return the SAE that a file is of: its directory's, or that of a checkpoint."""
    place = place_of(path)
    if place is not None:
        return _directory(place, spec if place == path else str(place))
    loader = recognise(path.parent)
    if loader is not None:
        raise SubjectError(
            f"--sae {path}: is a file of the {loader.name} directory that holds it, and not what "
            f"is read there; for the directory's SAE: --sae {path.parent}"
        )
    if path.suffix in PICKLES or path.name.endswith(".pkl.gz"):
        raise refused_pickle(path)
    other = described(path.parent)
    if other is not None:
        raise SubjectError(f"--sae {path}: {other}")
    raise SubjectError(f"--sae {path}: is a file; give the directory that holds it")


def _directory(path: Path, spec: str) -> SubjectReference:
    if not is_unicode(str(path.resolve())):
        raise SubjectError(f"--sae {spec!r}: its path is no valid UTF-8; rename the directory")
    loader = recognise(path)
    if loader is None:
        raise SubjectError(f"--sae {spec}: no SAE in it; {what_is_there(path)}")
    return SubjectReference(
        id=_name_of(path.resolve()),
        source=spec,
        directory=path,
        config=loader.config(path),
        loader=loader,
    )


def _name_of(place: Path) -> str:
    """Return the directory's name; of a checkpoint, its run's and its own."""
    if place.is_dir():
        return plain_text(place.name)
    run = place.parent.parent if place.parent.name == "checkpoints" else place.parent
    return plain_text(f"{run.name}/{place.stem}")


def _with_unique_ids(references: list[SubjectReference]) -> tuple[SubjectReference, ...]:
    taken: dict[str, int] = {}
    for reference in references:
        taken[reference.id] = taken.get(reference.id, 0) + 1
    unique = []
    for reference in references:
        if taken[reference.id] > 1 and reference.directory is not None:
            parent = plain_text(reference.directory.resolve().parent.name)
            reference = replace(reference, id=f"{parent}/{reference.id}")
        unique.append(reference)
    ids = [r.id for r in unique]
    return tuple(
        replace(r, id=f"{r.id}#{ids[: i + 1].count(r.id)}") if ids.count(r.id) > 1 else r
        for i, r in enumerate(unique)
    )
