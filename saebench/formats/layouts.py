"""SAE formats: which one a directory has, and what to give instead where it has none."""

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from saebench.errors import SaebenchError, SubjectError
from saebench.extensions import Extension, installed_extensions
from saebench.formats.converted import CONVERTED
from saebench.formats.dictionary_learning import DictionaryLearning
from saebench.formats.files import PICKLES
from saebench.formats.foreign import described, refused_pickle
from saebench.formats.saelens import SAELens
from saebench.formats.sparsify import Sparsify

if TYPE_CHECKING:
    from torch import nn

GROUP = "saebench.formats"
OLD_GROUP = "saebench.loaders"  # the former name of the group, read with a warning
METHODS = ("matches", "config", "load")
EXPECTED = (
    "expected a directory written by SAELens' save_model (cfg.json, sae_weights.safetensors), "
    "sparsify (cfg.json, sae.safetensors), dictionary_learning (config.json, ae.pt), or one of "
    "Gemma Scope (params.npz), Gemma Scope 2 (params.safetensors), Llama Scope (hyperparams.json)"
)
MAX_DEPTH = 4
MAX_DIRECTORIES = 2000
MOST_NAMED = 5


class Loader(Protocol):
    """An SAE format.

    ``matches`` and ``config`` are called while SPECs are resolved, by ``saebench list`` too: they
    read names, small files and headers, and import no torch.
    """

    @property
    def name(self) -> str:
        """What listings and messages call the format."""
        ...

    @property
    def config_file(self) -> str:
        """The file of a directory that says where its SAE belongs; "" where there is none."""
        ...

    def matches(self, directory: Path) -> bool:
        """Return whether a directory has this format, judged by the files in it."""
        ...

    def config(self, directory: Path) -> dict[str, Any] | None:
        """Return the SAE's configuration, or None where only loading the SAE tells it.

        Keys as in SAELens: ``d_in``, ``d_sae``, ``architecture``, and in ``metadata``
        ``hook_name``, ``model_name``, ``context_size``, ``prepend_bos``. What the metadata leave
        out comes from the options.

        Raises:
            SubjectError: for a directory that is damaged, or that cannot be judged.
        """
        ...

    def load(self, directory: Path, config: dict[str, Any]) -> "nn.Module":
        """Return the SAE: a module with ``encode`` and ``decode``, in fp32, on the CPU.

        Args:
            directory: the SAE's directory.
            config: the result of ``config``; an empty one for None.

        Raises:
            SubjectError: for weights that cannot be read, or that can run code.
        """
        ...


@dataclass(frozen=True)
class InstalledFormat:
    """An installed distribution's format; its exceptions are reported as the distribution's.

    Attributes:
        extension: the entry point.
        inner: the object that the entry point names.
        config_file: none: messages cite the directory.
    """

    extension: Extension
    inner: Any
    config_file: str = ""

    @property
    def name(self) -> str:
        """The entry point's name."""
        return self.extension.name

    def matches(self, directory: Path) -> bool:
        """Return the distribution's answer."""
        return bool(self._call("matches", directory))

    def config(self, directory: Path) -> dict[str, Any]:
        """Return the configuration that the distribution gives for the SAE."""
        config = self._call("config", directory)
        if not isinstance(config, dict) or not isinstance(config.get("metadata", {}), dict):
            raise self._error(directory, f"config gives {config!r}, expected a dict with metadata")
        return {"metadata": {}} | config

    def load(self, directory: Path, config: dict[str, Any]) -> Any:
        """Return the distribution's SAE."""
        sae = self._call("load", directory, config)
        if not (hasattr(sae, "encode") and hasattr(sae, "decode")):
            kind = type(sae).__name__
            raise self._error(
                directory, f"load gives {kind}, expected a module with encode, decode"
            )
        return sae

    def _call(self, method: str, *args: Any) -> Any:
        try:
            return getattr(self.inner, method)(*args)
        except SaebenchError:
            raise
        except Exception as error:
            # The code is the distribution's: it may raise anything.
            raise self._error(args[0], f"{method} failed: {error!r}") from error

    def _error(self, directory: Path, what: str) -> SubjectError:
        distribution = self.extension.distribution
        return SubjectError(
            f"--sae {directory}: SAE format {self.name!r} of {distribution}: {what}"
        )


@cache
def installed_formats() -> tuple[InstalledFormat, ...]:
    """Return the formats of installed distributions, sorted by name.

    Raises:
        SubjectError: where one cannot be imported, or lacks a method.
    """
    own = [each.name for each in BUILT_IN]
    declared = installed_extensions(GROUP, kind="SAE format", error=SubjectError, reserved=own)
    new = {(each.name, each.distribution) for each in declared}
    for each in installed_extensions(OLD_GROUP, kind="SAE format", error=SubjectError):
        if (each.name, each.distribution) not in new:  # else it is declared for both releases
            warnings.warn(
                f"{each.distribution} declares the entry point {each.name!r} in the group "
                f"{OLD_GROUP!r}, which the next release will not read: the group is {GROUP!r} now",
                DeprecationWarning,
                stacklevel=2,
            )
            declared += (each,)
    return tuple(_loaded(each) for each in declared)


def _loaded(extension: Extension) -> InstalledFormat:
    named = extension.load()
    try:
        inner = named() if isinstance(named, type) else named
    except Exception as error:
        # The class is the distribution's own code.
        raise extension.failure(f"cannot be created: {error!r}") from error
    missing = [name for name in METHODS if not callable(getattr(inner, name, None))]
    if missing:
        raise extension.failure(f"has no method {missing[0]!r}; see docs/loaders.md")
    return InstalledFormat(extension, inner)


OF_FILES: tuple[Loader, ...] = (DictionaryLearning(),)  # formats that also read single checkpoints
BUILT_IN: tuple[Loader, ...] = (SAELens(), Sparsify(), *OF_FILES, *CONVERTED)


def recognise(directory: Path) -> Loader | None:
    """Return the format of a directory, or None where no format matches.

    saebench's own come first: an installed distribution cannot change how they are read.

    Raises:
        SubjectError: where several installed formats match the directory, or one is broken.
    """
    for loader in BUILT_IN if directory.is_dir() else OF_FILES:
        if loader.matches(directory):
            return loader
    if not directory.is_dir():
        return None
    matching = [loader for loader in installed_formats() if loader.matches(directory)]
    if len(matching) > 1:
        names = ", ".join(f"{m.name!r} of {m.extension.distribution}" for m in matching)
        raise SubjectError(
            f"--sae {directory}: several SAE formats match it: {names}; uninstall one"
        )
    return matching[0] if matching else None


def place_of(file: Path) -> Path | None:
    """Return the path that a given file stands for: its SAE's directory, or the file itself.

    A file that a directory's format reads means the directory; a checkpoint in it means itself.
    None for any other file.
    """
    for directory in (file.parent, file.parent.parent):
        loader = recognise(directory)
        own = () if loader is None else (loader.config_file, *read_files(loader, directory))
        if file in [directory / name for name in own if name]:
            return directory
    return file if any(loader.matches(file) for loader in OF_FILES) else None


def read_files(loader: Loader, directory: Path) -> tuple[str, ...]:
    """Return the names of the weight files that a format reads in a directory."""
    names = getattr(loader, "read_files", None)
    return names(directory) if names is not None else ()


def what_is_there(directory: Path) -> str:
    """Describe a directory that is no SAE, and what to give instead of it."""
    other = described(directory)
    if other is not None:
        return other
    below = list(_saes_below(directory))
    if below:
        return _advice(directory, below)
    checkpoints = [p for p in sorted(directory.iterdir()) if place_of(p) == p]
    if checkpoints:
        names = ", ".join(p.name for p in checkpoints[:MOST_NAMED])
        return f"{len(checkpoints)} checkpoints lie in it ({names}): --sae '{directory}/*.pt'"
    pickles = sorted(p for p in directory.iterdir() if p.suffix in PICKLES)
    if pickles:
        return str(refused_pickle(pickles[0]))
    return EXPECTED


def _advice(directory: Path, saes: list[Path]) -> str:
    """Name the SAEs below a directory, and the globs that match all of them."""
    names = [p.relative_to(directory).as_posix() for p in saes]
    first = ", ".join(names[:MOST_NAMED]) + (", …" if len(names) > MOST_NAMED else "")
    depths = sorted({name.count("/") for name in names})
    globs = " ".join(f"--sae '{directory}{'/*' * (depth + 1)}'" for depth in depths)
    what = "1 SAE lies" if len(names) == 1 else f"{len(names)} SAEs lie"
    return f"{what} below it ({first}): {globs}"


def _saes_below(directory: Path) -> Iterator[Path]:
    """Yield each SAE below a directory once; SAEs themselves and deep trees are not searched."""
    seen: set[Path] = set()
    for visited, (here, inside, _) in enumerate(os.walk(directory, followlinks=True)):
        place = Path(here)
        deep = len(place.relative_to(directory).parts) >= MAX_DEPTH
        is_sae = place != directory and recognise(place) is not None
        if is_sae and place.resolve() not in seen:
            seen.add(place.resolve())
            yield place
        if is_sae or deep or visited >= MAX_DIRECTORIES:
            inside.clear()
        inside.sort()
