"""SAEs in hub repositories: fetched, then read as a directory of their layout is."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from saebench.errors import SubjectError
from saebench.formats.foreign import CROSS_LAYER
from saebench.formats.layouts import recognise
from saebench.subjects.references import SubjectReference, in_cache


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


@dataclass(frozen=True)
class Listed:
    """An SAE of the registry, with what its release says of how to read it."""

    release: str
    sae_id: str
    reading: tuple[Any, ...]


def with_release(reference: SubjectReference) -> SubjectReference:
    """Return a reference by release and id to an SAE that is named by repository and folder.

    Named so, SAELens would read it without its release's overrides: GPT-2 small's first SAEs
    without the centring that they were trained with, others unconverted or unscaled.

    Raises:
        SubjectError: where releases say different things of the same folder.
    """
    repository, path = reference.repository, reference.path
    if reference.directory or not repository or not path or repository in _releases():
        return reference
    of_it = list(_listed(repository))
    found = [each for each in of_it if _path(each) == path.rstrip("/")]
    found = found or [each for each in of_it if each.sae_id == path]
    if not found:
        return reference
    if any(each.reading != found[0].reading for each in found):
        names = ", ".join(f"{each.release}:{each.sae_id}" for each in found)
        raise SubjectError(
            f"--sae {reference.source}: SAELens' registry lists it more than once, read in "
            f"different ways; say which is meant: --sae with one of {names}"
        )
    return replace(reference, repository=found[0].release, path=found[0].sae_id)


def copied(reference: SubjectReference) -> SubjectReference:
    """Return what a directory of the hub's cache is a copy of; other references as they are."""
    if reference.directory is None:
        return reference
    repository, folder = in_cache(reference.directory.resolve())
    if repository is None:
        return reference
    return with_release(replace(reference, directory=None, repository=repository, path=folder))


def note_on_unlisted(reference: SubjectReference) -> tuple[str, ...]:
    """Return a note on a folder that is read as its repository's releases are.

    SAELens warns of it itself where it loads the SAE.
    """
    if reference.repository is None or reference.repository in _releases():
        return ()
    of_it = [r.release for r in _releases().values() if r.repo_id == reference.repository]
    if not of_it:
        return ()
    return (
        f"SAELens' registry does not list {reference.path} of {reference.repository}; it is read "
        f"with the overrides of that repository's releases: {', '.join(of_it)}",
    )


def refuse_cross_layer(reference: SubjectReference) -> None:
    """Refuse a layer of a cross-layer transcoder, before gigabytes of it are fetched.

    SAELens sums its decoders to all later layers, and warns of that for some releases alone.

    Raises:
        SubjectError: naming the SAE.
    """
    converter = conversion_of(reference)
    if converter is None:
        return
    release = _releases().get(reference.repository or "")
    folder = release.saes_map.get(reference.path, "") if release else reference.path
    if "clt" in converter or (converter == "gemma_3" and "clt" in str(folder)):
        raise SubjectError(f"--sae {reference.source}: one layer of {CROSS_LAYER}")


def overrides_of(reference: SubjectReference) -> dict[str, Any]:
    """Return the configuration values that the registry puts over an SAE's own.

    A folder that the registry does not list takes those of its repository's releases.

    Raises:
        SubjectError: where those releases differ.
    """
    return dict(_told(reference)[1] or {})


def conversion_of(reference: SubjectReference) -> str | None:
    """Return SAELens' converter for an SAE; None where it lies as SAELens itself writes it.

    Raises:
        SubjectError: where the releases of an unlisted folder's repository differ.
    """
    return _told(reference)[0]


def _told(reference: SubjectReference) -> tuple[str | None, Any]:
    if reference.repository is None:
        return None, None  # the registry takes seconds to read
    own = _releases().get(reference.repository)
    of_it = [r for r in _releases().values() if r.repo_id == reference.repository]
    told = [(r.conversion_func, r.config_overrides) for r in ([own] if own else of_it)]
    if any(each != told[0] for each in told):
        names = ", ".join(release.release for release in of_it)
        raise SubjectError(
            f"--sae {reference.source}: SAELens' registry does not list this folder, and the "
            f"releases of its repository ({names}) are read in different ways; name an SAE of one "
            "of them as RELEASE:SAE_ID"
        )
    return told[0] if told else (None, None)


def expected_explained_variance(reference: SubjectReference) -> float | None:
    """Return the registry's figure; 1.0 there means that none was given."""
    if reference.repository is None:
        return None
    release = _releases().get(reference.repository)
    value = release.expected_var_explained.get(reference.path or "", 1.0) if release else 1.0
    return None if value == 1.0 else value


def _releases() -> dict[str, Any]:
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    return get_pretrained_saes_directory()


def _path(listed: Listed) -> str:
    return str(listed.reading[0]).rstrip("/")


def _listed(repository: str) -> Iterator[Listed]:
    for name, release in _releases().items():
        if release.repo_id == repository:
            for sae_id, path in release.saes_map.items():
                factor = release.norm_scaling_factor.get(sae_id)
                how = (path, release.conversion_func, release.config_overrides, factor)
                yield Listed(name, sae_id, how)
