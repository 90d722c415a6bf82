"""SAEs in hub repositories and SAELens' registry: download, releases and their overrides."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from saebench.errors import SubjectError
from saebench.formats.foreign import CROSS_LAYER
from saebench.formats.layouts import recognise
from saebench.formats.promises import EXPLAINED_VARIANCE, L0
from saebench.subjects.references import SubjectReference, in_cache


def fetched(reference: SubjectReference) -> SubjectReference:
    """Return a reference to the downloaded folder, where it has a known format.

    Other references are returned unchanged: SAELens resolves them, or says why it cannot.

    Raises:
        SubjectError: for a damaged folder of a known format.
    """
    folder = _folder(reference)
    loader = None if folder is None else recognise(folder)
    if folder is None or loader is None:
        return reference
    return replace(reference, directory=folder, loader=loader, config=loader.config(folder))


def _folder(reference: SubjectReference) -> Path | None:
    """Download the folder and the configurations above it; None for no repository's folder."""
    repository, path = reference.repository, reference.path
    if reference.directory or not repository or not path or "/" not in repository:
        return None
    from huggingface_hub import snapshot_download

    above = [str(parent / "config.json") for parent in PurePosixPath(path).parents]
    try:
        root = snapshot_download(repository, allow_patterns=[f"{path}/*", *above])
    except Exception:
        # Errors of the hub's client, the network, the system: SAELens will meet and report them.
        return None
    folder = Path(root) / path
    return folder if folder.is_dir() else None


@dataclass(frozen=True)
class Listed:
    """An SAE of the registry, with the settings of its release for reading it."""

    release: str
    sae_id: str
    reading: tuple[Any, ...]


def with_release(reference: SubjectReference) -> SubjectReference:
    """Return a reference by release and id to an SAE that was given by repository and folder.

    By repository, SAELens reads it without its release's overrides: GPT-2 small's first SAEs
    without the centring of their training, others unconverted or unscaled.

    Raises:
        SubjectError: where releases read the same folder differently.
    """
    repository, path = reference.repository, reference.path
    if reference.directory or not repository or not path or repository in _releases():
        return reference
    listed = list(_listed(repository))
    matching = [each for each in listed if _path(each) == path.rstrip("/")]
    matching = matching or [each for each in listed if each.sae_id == path]
    if not matching:
        return reference
    if any(each.reading != matching[0].reading for each in matching):
        names = ", ".join(f"{each.release}:{each.sae_id}" for each in matching)
        raise SubjectError(
            f"--sae {reference.source}: SAELens' registry lists it more than once, read in "
            f"different ways; choose one: --sae with one of {names}"
        )
    return replace(reference, repository=matching[0].release, path=matching[0].sae_id)


def copied(reference: SubjectReference) -> SubjectReference:
    """Return the reference that a directory of the hub's cache is a copy of; others unchanged."""
    if reference.directory is None:
        return reference
    repository, folder = in_cache(reference.directory.resolve())
    if repository is None:
        return reference
    return with_release(replace(reference, directory=None, repository=repository, path=folder))


def note_on_unlisted(reference: SubjectReference) -> tuple[str, ...]:
    """Return a note on a folder that is read with the overrides of its repository's releases.

    SAELens warns itself where it loads the SAE.
    """
    if reference.repository is None or reference.repository in _releases():
        return ()
    releases = [r.release for r in _releases().values() if r.repo_id == reference.repository]
    if not releases:
        return ()
    return (
        f"SAELens' registry does not list {reference.path} of {reference.repository}; it is read "
        f"with the overrides of that repository's releases: {', '.join(releases)}",
    )


def refuse_cross_layer(reference: SubjectReference) -> None:
    """Refuse a layer of a cross-layer transcoder, before gigabytes of it are downloaded.

    SAELens sums its decoders to all later layers, and warns of that for some releases only.

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
    """Return the registry's overrides of an SAE's configuration.

    A folder that the registry does not list gets those of its repository's releases.

    Raises:
        SubjectError: where those releases differ.
    """
    return dict(_conversion(reference)[1] or {})


def conversion_of(reference: SubjectReference) -> str | None:
    """Return SAELens' converter for an SAE; None for SAELens' own format.

    Raises:
        SubjectError: where the releases of an unlisted folder's repository differ.
    """
    return _conversion(reference)[0]


def _conversion(reference: SubjectReference) -> tuple[str | None, Any]:
    if reference.repository is None:
        return None, None  # reading the registry takes seconds
    own = _releases().get(reference.repository)
    siblings = [r for r in _releases().values() if r.repo_id == reference.repository]
    ways = [(r.conversion_func, r.config_overrides) for r in ([own] if own else siblings)]
    if any(each != ways[0] for each in ways):
        names = ", ".join(release.release for release in siblings)
        raise SubjectError(
            f"--sae {reference.source}: SAELens' registry does not list this folder, and the "
            f"releases of its repository ({names}) are read in different ways; give an SAE of one "
            "of them as RELEASE:SAE_ID"
        )
    return ways[0] if ways else (None, None)


def expected_explained_variance(reference: SubjectReference) -> float | None:
    """Return the registry's figure; its placeholder 1.0 means none."""
    if reference.repository is None:
        return None
    release = _releases().get(reference.repository)
    value = release.expected_var_explained.get(reference.path or "", 1.0) if release else 1.0
    return None if value == 1.0 else value


def registry_figures(reference: SubjectReference) -> dict[str, float]:
    """Return what SAELens' registry says of an SAE: its l0 and its explained variance.

    A figure that the registry does not have, or that is none (some are above 1), is left out.
    """
    if reference.repository is None:
        return {}
    release, sae_id = _releases().get(reference.repository), reference.path or ""
    l0 = release.expected_l0.get(sae_id) if release else None
    explained = expected_explained_variance(reference)
    figures = {L0: l0 or None, EXPLAINED_VARIANCE: explained}
    if explained is not None and not 0 < explained < 1:
        del figures[EXPLAINED_VARIANCE]
    return {name: float(value) for name, value in figures.items() if value is not None}


def names_of(reference: SubjectReference) -> tuple[str, ...]:
    """Return the paths that an SAE is known by: its id in the registry, its folder, its directory.

    Gemma Scope's canonical SAEs have an id without an l0, and a folder with one.
    """
    names = [reference.path or ""]
    if reference.repository is not None:
        release = _releases().get(reference.repository)
        names.append(str(release.saes_map.get(reference.path, "")) if release else "")
    if reference.directory is not None:
        names.append(str(reference.directory.resolve()))
    return tuple(name for name in names if name)


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
