"""SAEs in hub repositories: fetched, then read as a directory of their layout is."""

from dataclasses import replace
from pathlib import Path, PurePosixPath

from saebench.subjects.loaders.recognition import recognise
from saebench.subjects.references import SubjectReference


def fetched(reference: SubjectReference) -> SubjectReference:
    """Return a reference to the folder on disk, where it has a layout that is read.

    Others are returned as they are: SAELens looks for them, and says why it cannot load them.

    Raises:
        SubjectError: for a folder of a known layout that is damaged.
    """
    folder = _folder(reference)
    loader = None if folder is None else recognise(folder)
    if folder is None or loader is None:
        return reference
    return replace(reference, directory=folder, loader=loader, config=loader.config(folder))


def _folder(reference: SubjectReference) -> Path | None:
    """Fetch the folder and the configurations above it, where the reference is to a repository."""
    repository, path = reference.repository, reference.path
    if reference.directory or not repository or not path or "/" not in repository:
        return None
    from huggingface_hub import snapshot_download

    above = [str(parent / "config.json") for parent in PurePosixPath(path).parents]
    try:
        root = snapshot_download(repository, allow_patterns=[f"{path}/*", *above])
    except Exception:
        # The hub client's errors, the network's, the system's: SAELens meets the same and says so.
        return None
    folder = Path(root) / path
    return folder if folder.is_dir() else None
