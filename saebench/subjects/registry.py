"""SAELens' registry: what it knows of a repository that is named without its release."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from saebench.errors import SubjectError
from saebench.subjects.references import SubjectReference


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


def overrides_of(reference: SubjectReference) -> dict[str, Any]:
    """Return the configuration values that the registry puts over an SAE's own.

    A folder that the registry does not list takes those of its repository's releases.

    Raises:
        SubjectError: where those releases differ.
    """
    release = _releases().get(reference.repository or "")
    if release is not None:
        return dict(release.config_overrides or {})
    of_it = [each for each in _releases().values() if each.repo_id == reference.repository]
    known = [dict(each.config_overrides or {}) for each in of_it]
    if any(each != known[0] for each in known):
        names = ", ".join(each.release for each in of_it)
        raise SubjectError(
            f"--sae {reference.source}: SAELens' registry does not list this folder, and the "
            f"releases of its repository ({names}) are read in different ways; name an SAE of one "
            "of them as RELEASE:SAE_ID"
        )
    return known[0] if known else {}


def expected_explained_variance(reference: SubjectReference) -> float | None:
    """Return the registry's figure; 1.0 there means that none was given."""
    release = _releases().get(reference.repository or "")
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
