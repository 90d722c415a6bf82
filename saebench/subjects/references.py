"""References to SAEs: SPECs resolved to directories or registry entries, each with its id.

An id is a function of the SAE's own path or SPEC alone, whatever else is in the run.
"""

import glob
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from saebench.errors import SubjectError, nearest
from saebench.formats.files import PICKLES
from saebench.formats.foreign import described, refused_pickle
from saebench.formats.layouts import EXPECTED, Loader, place_of, recognise, what_is_there
from saebench.formats.metadata import SubjectMetadata, parse_metadata
from saebench.options import Overrides
from saebench.text import from_system, is_unicode, plain_text

# Words in names of hooks, sizes, kinds and checkpoints: they distinguish SAEs of one training run,
# but not two runs. Numbers, also with a unit (16k, 2b), are such words too.
_COMMON = frozenset(
    re.findall(
        r"\w+",
        """
    absolute abstopk ae aes anneal att attention attn autoencoder autoencoders
    autoencoderstandard average b batch batchtopk best big block blocks canonical
    checkpoint checkpoints chkpt ckpt ckpts coder coders coeff coefficient context
    crosscoder ctx current d default dict dictionaries dictionary epoch epochs exp
    expansion experiment experiments ffn final finetuned folded gated gpt h hidden hook in
    input iter iteration iterations job jobs jump jumprelu k l l0 l1 lambda large last
    latest layer layers lr m main matryoshka medium mid mlp model models n neox out output
    outputs panneal params post pre q ratio relu res resid residual result results run
    runs sae saelens saes seed seeds self small snapshot snapshots sparsify standard
    states step steps stream tc token tokens top topk train trained trainer trainers
    training transcoder transcoders transformer trial trials v vanilla version weights
    width x z
    """,
    )
)
_NUMBER = re.compile(r"\d+[a-z]?")
_NAMED = re.compile(r"([^=/\\:*?\[\]]+)=(.+)", re.DOTALL)
_CACHED = re.compile(r"(?:models|datasets)--([^/]+?)--([^/]+)/snapshots/[0-9a-f]{40}(?:/|$)")


def id_of(path: Path) -> str:
    """Return the end of a path that identifies its SAE: ``mine``, or ``mine/layer_3``.

    Folder names that every training run has, such as ``layer_3`` or ``sae``, are preceded by their
    parents, up to the first one with a name of its own.

    Args:
        path: resolved; for one in the hub's cache the id names the repository.

    Example:
        >>> id_of(Path("/saes/stories-l2-standard"))
        'stories-l2-standard'
        >>> id_of(Path("/data/mine/checkpoints/layer_3/sae"))
        'mine/checkpoints/layer_3/sae'
    """
    repository, inside = in_cache(path)
    if repository is not None:
        return plain_text(f"{repository}/{inside}".rstrip("/"))
    parts = [part for part in path.parts if part != path.anchor]
    begin = len(parts) - 1
    while begin > 0 and _is_common(parts[begin]):
        begin -= 1
    return plain_text("/".join(parts[max(begin, 0) :])) or plain_text(str(path))


def in_cache(path: Path) -> tuple[str | None, str]:
    """Return the repository, and the folder in it, that a path in the hub's cache is a copy of."""
    match = _CACHED.search(path.as_posix())
    if match is None:
        return None, ""
    return f"{match[1]}/{match[2]}", path.as_posix()[match.end() :]


def _is_common(part: str) -> bool:
    """True for a name of common words and numbers alone.

    Example:
        >>> [_is_common(part) for part in ("blocks.8.hook_resid_pre", "l0_71", "tiny-l2")]
        [True, True, False]
    """
    words = re.findall(r"[a-z0-9]+", part.lower())
    return all(_NUMBER.fullmatch(w) or w.rstrip("0123456789") in _COMMON for w in words)


def given_name(spec: str) -> tuple[str | None, str]:
    """Return the name in a SPEC such as ``mine=runs/3/sae``, and the rest.

    Example:
        >>> given_name("mine=runs/3/sae"), given_name("runs/a=3/sae")
        (('mine', 'runs/3/sae'), (None, 'runs/a=3/sae'))
    """
    match = _NAMED.fullmatch(spec)
    return (match[1], match[2]) if match else (None, spec)


def refuse_equal(named: Iterable[tuple[str, str]]) -> None:
    """Refuse two SAEs with one id: results and baselines could not distinguish them.

    Args:
        named: ids, each with its SAE's path.

    Raises:
        SubjectError: naming both, and how to name them.
    """
    known: dict[str, str] = {}
    for id, place in named:
        if id in known:
            one, two = _suggested(known[id], place)
            raise SubjectError(
                f"--sae: two SAEs would both be called {id!r}: {known[id]} and {place}; name them, "
                f"such as --sae {one}={known[id]} --sae {two}={place}"
            )
        known[id] = place


def _suggested(*places: str) -> Iterator[str]:
    """Yield a name for each path: its last folder and the first folder in which they differ."""
    split = [Path(place).parts for place in places]
    for parts, number in zip(split, (1, 2), strict=True):
        other = split[2 - number]
        apart = [p for p, q in zip(parts, other, strict=False) if p != q and p not in "/."]
        word = re.sub(r"[^A-Za-z0-9._-]+", "_", apart[0]) if apart else str(number)
        yield f"{re.sub(r'[^A-Za-z0-9._-]+', '_', parts[-1])}-{word}"


CONTROLS = ("identity", "permuted_decoder", "random_init", "l0_matched_random", "scaled")
CONTROL_BASE = "l2-standard"  # of the demo


@dataclass(frozen=True)
class SubjectReference:
    """One SAE, not loaded yet.

    Attributes:
        id: a short name for tables, a function of the path alone (:func:`id_of`).
        source: the SPEC.
        directory: its directory or checkpoint file; None for a registry or hub reference.
        repository: the SAELens release or hub repository, else None.
        path: the SAE's id in the release, or its folder in the repository.
        config: its configuration; None where only loading it tells that.
        loader: its directory's format, or None for a registry or hub reference.
        model: the host model that comes with it; None for most.
        summary: one line for listings.
        control: the control to derive from it, where it is not judged itself.
        is_demo: whether it is one of the embedded zoo, which brings its own texts.
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
        """Return the checked metadata, or None where only loading tells them."""
        if self.config is None:
            return None
        return parse_metadata(self.config, overrides, where=self.where)

    @property
    def where(self) -> str:
        """The file that messages about its metadata cite: the configuration, if there is one."""
        file = "" if self.loader is None else self.loader.config_file
        inside = file and not (self.directory is not None and self.directory.is_file())
        return f"{self.source}/{file}" if inside else self.source


def find_subjects(specs: Iterable[str]) -> tuple[SubjectReference, ...]:
    """Return the SAEs that the SPECs name, each once; ids depend on each SPEC alone.

    Args:
        specs: a directory, a checkpoint, a glob of them, ``release:sae_id``, ``org/repo:path``,
            ``demo`` or ``demo:NAME``; ``NAME=SPEC`` gives the SAE a name.

    Raises:
        SubjectError: for a SPEC that names no SAE, invalid SAEs, and two SAEs with one id.
    """
    references: dict[str, SubjectReference] = {}
    for spec in specs:
        for reference in _named(spec):
            place = reference.directory.resolve() if reference.directory else reference.source
            place = f"{place}+{reference.control}"
            references.setdefault(str(place), reference)
    refuse_equal((reference.id, reference.source) for reference in references.values())
    return tuple(references.values())


def _named(spec: str) -> Iterator[SubjectReference]:
    """Yield the SAEs of a SPEC, under the name in ``NAME=SPEC``."""
    name, inner = given_name(spec)
    if name is None or _exists(spec):
        yield from _expand(spec)
        return
    references = list(_expand(inner))
    if len(references) > 1:
        raise SubjectError(
            f"--sae {spec}: one name for {len(references)} SAEs; name each of them, or none"
        )
    if name != plain_text(name) or not is_unicode(name):
        raise SubjectError(f"--sae {spec!r}: the name {name!r} has invisible characters")
    yield replace(references[0], id=name)


def _exists(spec: str) -> bool:
    try:
        return Path(os.path.expanduser(spec)).exists()
    except (OSError, ValueError):
        return False


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
    from saebench.zoo import shelf as zoo

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
    """Yield the zoo's control of that name, or all of them."""
    base = next(iter(_demo(f"demo:{CONTROL_BASE}")))
    if name and name not in CONTROLS:
        raise SubjectError(f"demo:control-{name}: no such control{nearest(name, CONTROLS)}")
    for each in [name] if name else CONTROLS:
        yield replace(
            base,
            id=f"control-{each}",
            source=f"demo:control-{each}",
            control=each,
            summary=f"derived from {CONTROL_BASE} at run time",
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
    """Return the SAE of a file: its directory's, or a checkpoint."""
    place = place_of(path)
    if place is not None:
        return _directory(place, spec if place == path else str(place))
    loader = recognise(path.parent)
    if loader is not None:
        raise SubjectError(
            f"--sae {path}: is a file of the {loader.name} directory that contains it, but not one "
            f"that is read; for the directory's SAE: --sae {path.parent}"
        )
    if path.suffix in PICKLES or path.name.endswith(".pkl.gz"):
        raise refused_pickle(path)
    other = described(path.parent)
    if other is not None:
        raise SubjectError(f"--sae {path}: {other}")
    raise SubjectError(f"--sae {path}: is a file; give its directory")


def _directory(path: Path, spec: str) -> SubjectReference:
    place = path.resolve()
    if not is_unicode(from_system(str(place))):
        raise SubjectError(f"--sae {spec!r}: its path is no valid UTF-8; rename the directory")
    loader = recognise(path)
    if loader is None:
        raise SubjectError(f"--sae {spec}: no SAE in it; {what_is_there(path)}")
    return SubjectReference(
        id=id_of(place.with_suffix("") if place.is_file() else place),
        source=from_system(spec),
        directory=path,
        config=loader.config(path),
        loader=loader,
    )
