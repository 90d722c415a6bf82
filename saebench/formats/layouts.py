"""What saebench asks of a layout of SAE directories; third parties' layouts have the same shape."""

from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from saebench.errors import SaebenchError, SubjectError
from saebench.formats import layouts as third_party
from saebench.formats.converted import CONVERTED
from saebench.formats.dictionary_learning import DictionaryLearning
from saebench.formats.saelens import SAELens
from saebench.formats.sparsify import Sparsify

if TYPE_CHECKING:
    from torch import nn


class Loader(Protocol):
    """A layout of SAE directories.

    ``matches`` and ``config`` are asked while SPECs are resolved, for ``saebench list`` too: they
    look at names, small files and headers, and import no torch.

    """

    @property
    def name(self) -> str:
        """What listings and messages call the layout."""
        ...

    @property
    def config_file(self) -> str:
        """The file of a directory that says where its SAE belongs; "" where there is none."""
        ...

    def matches(self, directory: Path) -> bool:
        """Return whether a directory has this layout, by what lies in it."""
        ...

    def config(self, directory: Path) -> dict[str, Any] | None:
        """Return what the directory says of its SAE, or None where that shows on loading.

        Keys as in SAELens: ``d_in``, ``d_sae``, ``architecture``, and in ``metadata``
        ``hook_name``, ``model_name``, ``context_size``, ``prepend_bos``. What is left out of the
        metadata comes from the options.

        Raises:
            SubjectError: for a directory that is damaged, or that cannot be judged.
        """
        ...

    def load(self, directory: Path, config: dict[str, Any]) -> "nn.Module":
        """Return the SAE: a module with ``encode`` and ``decode``, in fp32, on the CPU.

        Args:
            directory: where it lies.
            config: what ``config`` gave, or an empty one for None.

        Raises:
            SubjectError: for weights that cannot be read, or that can run code.
        """
        ...


GROUP = "saebench.loaders"
ASKED = ("matches", "config", "load")


@dataclass(frozen=True)
class ThirdParty:
    """A layout that an installed distribution knows; what it raises is reported as its own.

    Attributes:
        name: the entry point's.
        distribution: who installed it.
        inner: the object that it names.
        config_file: none: messages cite the directory.
    """

    name: str
    distribution: str
    inner: Any
    config_file: str = ""

    def matches(self, directory: Path) -> bool:
        """Return what the distribution says."""
        return bool(self._ask("matches", directory))

    def config(self, directory: Path) -> dict[str, Any]:
        """Return what the distribution says of the SAE."""
        found = self._ask("config", directory)
        if not isinstance(found, dict) or not isinstance(found.get("metadata", {}), dict):
            raise self._error(directory, f"config gives {found!r}, expected a dict with metadata")
        return {"metadata": {}} | found

    def load(self, directory: Path, config: dict[str, Any]) -> Any:
        """Return the distribution's SAE."""
        found = self._ask("load", directory, config)
        if not (hasattr(found, "encode") and hasattr(found, "decode")):
            kind = type(found).__name__
            raise self._error(
                directory, f"load gives {kind}, expected a module with encode, decode"
            )
        return found

    def _ask(self, method: str, *args: Any) -> Any:
        try:
            return getattr(self.inner, method)(*args)
        except SaebenchError:
            raise
        except Exception as error:
            # Whatever it raises is the distribution's own.
            raise self._error(args[0], f"{method} failed: {error!r}") from error

    def _error(self, directory: Path, what: str) -> SubjectError:
        return SubjectError(
            f"--sae {directory}: loader {self.name!r} of {self.distribution}: {what}"
        )


@cache
def installed() -> tuple[ThirdParty, ...]:
    """Return the layouts of installed distributions, in the order of their names.

    Raises:
        SubjectError: where one cannot be imported, or is no loader.
    """
    points = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    return tuple(ThirdParty(point.name, _distribution(point), _loaded(point)) for point in points)


def _loaded(point: EntryPoint) -> Any:
    try:
        found = point.load()
        inner = found() if isinstance(found, type) else found
    except Exception as error:
        # Importing runs the distribution's own code.
        raise SubjectError(
            f"loader {point.name!r} ({point.value} of {_distribution(point)}) cannot be imported: "
            f"{error!r}; repair or uninstall it"
        ) from error
    missing = [name for name in ASKED if not callable(getattr(inner, name, None))]
    if missing:
        raise SubjectError(
            f"loader {point.name!r} ({point.value} of {_distribution(point)}) has no method "
            f"{missing[0]!r}; see docs/loaders.md"
        )
    return inner


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unknown distribution"


OF_FILES: tuple[Loader, ...] = (DictionaryLearning(),)  # which read checkpoints by their own path
BUILT_IN: tuple[Loader, ...] = (SAELens(), Sparsify(), *OF_FILES, *CONVERTED)
EXPECTED = (
    "expected a directory written by SAELens' save_model (cfg.json, sae_weights.safetensors), "
    "sparsify (cfg.json, sae.safetensors), dictionary_learning (config.json, ae.pt), or one of "
    "Gemma Scope (params.npz), Gemma Scope 2 (params.safetensors), Llama Scope (hyperparams.json)"
)


def place_of(file: Path) -> Path | None:
    """Return what is loaded where a file is given: its directory, or the file itself.

    A file that a directory's layout reads means the directory; a checkpoint in it means itself.
    None for any other file.
    """
    for directory in (file.parent, file.parent.parent):
        loader = recognise(directory)
        own = () if loader is None else (loader.config_file, *read_files(loader, directory))
        if file in [directory / name for name in own if name]:
            return directory
    return file if any(loader.matches(file) for loader in OF_FILES) else None


def read_files(loader: Loader, directory: Path) -> tuple[str, ...]:
    """Return the weights that a layout reads in a directory, by their names in it."""
    found = getattr(loader, "read_files", None)
    return found(directory) if found is not None else ()


def recognise(directory: Path) -> Loader | None:
    """Return the layout of a directory, or None where nobody knows it.

    saebench's own come first: what others install cannot change how they are read.

    Raises:
        SubjectError: where several installed loaders claim the directory, or one is broken.
    """
    for loader in BUILT_IN if directory.is_dir() else OF_FILES:
        if loader.matches(directory):
            return loader
    if not directory.is_dir():
        return None
    claiming = [loader for loader in third_party.installed() if loader.matches(directory)]
    if len(claiming) > 1:
        names = ", ".join(f"{c.name!r} of {c.distribution}" for c in claiming)
        raise SubjectError(f"--sae {directory}: several loaders claim it: {names}; uninstall one")
    return claiming[0] if claiming else None
