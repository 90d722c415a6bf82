"""From a reference, or an object, to an SAE under test."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from saebench.errors import SubjectError
from saebench.subjects.controls import make_control
from saebench.subjects.hub import fetched
from saebench.subjects.library_warnings import listening
from saebench.subjects.loaders.downloads import checked_downloads
from saebench.subjects.loaders.saelens import inference_sae
from saebench.subjects.metadata import Overrides, check_config, metadata_of, parse_metadata
from saebench.subjects.modules import config_of
from saebench.subjects.normalisation import normalised
from saebench.subjects.objects import adopted
from saebench.subjects.references import SubjectReference
from saebench.subjects.registry import (
    conversion_of,
    copied,
    expected_explained_variance,
    note_on_unlisted,
    overrides_of,
    refuse_cross_layer,
    with_release,
)
from saebench.subjects.sae import Subject


def wrap_sae(sae: Any, *, id: str, overrides: Overrides) -> Subject:
    """Wrap an SAE object: SAELens' own, or any module with ``encode`` and ``decode``.

    Raises:
        SubjectError: where it has neither, or no metadata says where it belongs.
    """
    if not isinstance(sae, nn.Module) or not (hasattr(sae, "encode") and hasattr(sae, "decode")):
        raise SubjectError(
            f"sae: expected a SAELens SAE, a torch module with encode and decode, or a SPEC; "
            f"found {type(sae).__name__}"
        )
    where = f"{type(sae).__name__} object"
    with listening() as heard:
        told: dict[str, Any] = {}
        if config_of(sae):
            sae = inference_sae(sae) if hasattr(sae, "save_inference_model") else sae
            check_config(config_of(sae), where=where)
        else:
            sae, told = adopted(sae, id=id, where=where)
        config = config_of(sae) or told
        metadata = parse_metadata(config, overrides, where=where)
        found = normalised(sae, overrides, source=where, version=_version_of(config), given=True)
        metadata = replace(metadata, notes=metadata.notes + found.notes)
        subject = Subject(
            found.sae, id=id, source=where, metadata=metadata, told=told, waits=found.waits
        )
    return _with_notes(subject, heard.notes(source=where))


def load_subject(reference: SubjectReference, *, overrides: Overrides, device: str) -> Subject:
    """Load a referenced SAE.

    Raises:
        SubjectError: where it cannot be loaded or judged.
    """
    with listening() as heard:
        reference = with_release(fetched(reference))
        refuse_cross_layer(reference)
        sae = _loaded(reference)
    notes = heard.notes(source=reference.source)
    named = copied(reference)
    notes += note_on_unlisted(named) if reference.directory is not None else ()
    config = _completed(reference.config or config_of(sae), named)
    if reference.config is None:
        check_config(config, where=reference.where)
    metadata = parse_metadata(config, overrides, where=reference.where)
    found = normalised(
        sae,
        overrides,
        source=reference.source,
        directory=reference.directory,
        version=_version_of(config),
    )
    sae, metadata = found.sae, replace(metadata, notes=metadata.notes + found.notes)
    if reference.control is not None:
        sae, config = make_control(reference.control, sae), {}
    subject = Subject(
        sae.to(device),
        id=reference.id,
        source=reference.source,
        metadata=metadata,
        told=config,
        waits=found.waits,
    )
    _refuse_unusable(subject)
    subject.expected_explained_variance = expected_explained_variance(named)
    return _with_notes(subject, notes)


def _with_notes(subject: Subject, notes: tuple[str, ...]) -> Subject:
    subject.metadata = replace(subject.metadata, notes=subject.metadata.notes + notes)
    return subject


def _version_of(config: dict[str, Any]) -> str | None:
    """Return the version of SAELens that trained the SAE, else that wrote its configuration."""
    data = metadata_of(config)
    told = data.get("sae_lens_training_version") or data.get("sae_lens_version")
    return told if isinstance(told, str) else None


def _completed(config: dict[str, Any], reference: SubjectReference) -> dict[str, Any]:
    """Put the registry's overrides over what the SAE's own configuration says of its place.

    SAELens 6 does not look for them where it puts them, nor at all for a directory.

    Raises:
        SubjectError: for a copy of an SAE that its release reads otherwise.
    """
    over = overrides_of(reference)
    kind = over.pop("normalize_activations", None)
    if kind is not None and kind != config.get("normalize_activations"):
        raise SubjectError(
            f"{reference.source}: its release normalises activations ({kind}), and the copy's "
            f"configuration does not say so; name it by release: --sae "
            f"{reference.repository}:{reference.path}"
        )
    metadata = config.get("metadata")
    if isinstance(metadata, dict):
        return config | {"metadata": metadata | over}
    return config | over


def _refuse_unusable(subject: Subject) -> None:
    """Try the SAE on nothing: what its configuration and weights make of it may not even run.

    Raises:
        SubjectError: where it does not take or give what it says.
    """
    if not subject.d_in:
        return
    first = next(subject.sae.parameters(), None)
    x = torch.zeros(
        2, subject.d_in, dtype=torch.float32, device=first.device if first is not None else None
    )
    try:
        found = subject.reconstruct(x).x_hat
    except Exception as error:
        # A configuration leads torch into errors of every kind, and a third party's SAE too.
        if isinstance(error, SubjectError) and error.__cause__ is None:
            raise
        raise SubjectError(
            f"{subject.source}: cannot be run on activations {subject.d_in} wide: "
            f"{error.__cause__ or error!r}"
        ) from error
    if found.shape != (2, subject.d_out):
        raise SubjectError(
            f"{subject.source}: gives {found.shape[-1]} components, its configuration says "
            f"{subject.d_out}"
        )


def _loaded(reference: SubjectReference) -> Any:
    if reference.loader is None or reference.directory is None:
        return _from_registry(reference)
    sae = reference.loader.load(reference.directory, reference.config or {})
    if not isinstance(sae, nn.Module):
        raise SubjectError(
            f"{reference.source}: expected a torch module, found {type(sae).__name__}"
        )
    return sae


def _from_registry(reference: SubjectReference) -> Any:
    from sae_lens import SAE

    assert reference.repository is not None
    try:
        with checked_downloads():
            return SAE.from_pretrained(
                reference.repository,
                reference.path or "",
                dtype="float32",
                converter=_overriding(reference),
            )
    except SubjectError:
        raise
    except Exception as error:
        # The registry's loaders raise whatever their download, conversion or parsing raises.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise SubjectError(
            f"--sae {reference.source}: neither a directory nor loadable through SAELens as "
            f"release {reference.repository!r}, SAE {reference.path!r}: {reason}"
        ) from error


def _overriding(reference: SubjectReference) -> Callable[..., Any]:
    """Return SAELens' converter, given what the registry says of the repository's releases.

    SAELens itself gives that to SAEs alone that are named by their release.
    """
    from sae_lens.loading import pretrained_sae_loaders as loaders

    named = conversion_of(reference) or loaders.get_conversion_loader_name("")
    convert, over = loaders.NAMED_PRETRAINED_SAE_LOADERS[named], overrides_of(reference)

    def converted(*args: Any, cfg_overrides: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        return convert(*args, cfg_overrides=over | (cfg_overrides or {}), **kwargs)

    return converted
