"""Which layout a directory has."""

from pathlib import Path

from saebench.errors import SubjectError
from saebench.subjects.loaders import third_party
from saebench.subjects.loaders.converted import CONVERTED
from saebench.subjects.loaders.dictionary_learning import DictionaryLearning
from saebench.subjects.loaders.protocol import Loader
from saebench.subjects.loaders.saelens import SAELens
from saebench.subjects.loaders.sparsify import Sparsify

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
