"""From a reference, or an object, to an SAE under test."""

import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from saebench.errors import SubjectError
from saebench.subjects.controls import make_control
from saebench.subjects.hub import fetched
from saebench.subjects.loaders.downloads import checked_downloads
from saebench.subjects.loaders.foreign import CROSS_LAYER
from saebench.subjects.loaders.saelens import inference_sae
from saebench.subjects.metadata import Overrides, check_config, metadata_of, parse_metadata
from saebench.subjects.modules import config_of
from saebench.subjects.normalisation import normalised
from saebench.subjects.references import SubjectReference
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
    if hasattr(sae, "save_inference_model"):
        sae = inference_sae(sae)
    config = config_of(sae)
    where = f"{type(sae).__name__} object"
    if config:
        check_config(config, where=where)
    metadata = parse_metadata(config, overrides, where=where)
    found = normalised(sae, overrides, source=where, version=_version_of(config), given=True)
    metadata = replace(metadata, notes=metadata.notes + found.notes)
    return Subject(found.sae, id=id, source=where, metadata=metadata, waits=found.waits)


def load_subject(reference: SubjectReference, *, overrides: Overrides, device: str) -> Subject:
    """Load a referenced SAE.

    Raises:
        SubjectError: where it cannot be loaded or judged.
    """
    reference = fetched(reference)
    with warnings.catch_warnings():
        # SAELens warns of model_from_pretrained_kwargs; the site honours them.
        warnings.simplefilter("ignore")
        sae = _loaded(reference)
    config = reference.config
    if config is None:
        config = config_of(sae)
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
    subject.expected_explained_variance = _expected_explained_variance(reference)
    return subject


def _version_of(config: dict[str, Any]) -> str | None:
    """Return the version of SAELens that trained the SAE, else that wrote its configuration."""
    data = metadata_of(config)
    told = data.get("sae_lens_training_version") or data.get("sae_lens_version")
    return told if isinstance(told, str) else None


def _refuse_unusable(subject: Subject) -> None:
    """Try the SAE on nothing: what its configuration and weights make of it may not even run.

    Raises:
        SubjectError: where it does not take or give what it says.
    """
    if not subject.d_in:
        return
    here = next(subject.sae.parameters(), torch.empty(0)).device
    try:
        found = subject.reconstruct(torch.zeros(2, subject.d_in, device=here)).x_hat
    except Exception as error:
        # A configuration leads torch into errors of every kind, and a third party's SAE too.
        raise SubjectError(
            f"{subject.source}: cannot be run on activations {subject.d_in} wide: {error!r}"
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
    _refuse_cross_layer(reference)
    try:
        with checked_downloads():
            return SAE.from_pretrained(reference.repository, reference.path or "", dtype="float32")
    except SubjectError:
        raise
    except Exception as error:
        # The registry's loaders raise whatever their download, conversion or parsing raises.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise SubjectError(
            f"--sae {reference.source}: neither a directory nor loadable through SAELens as "
            f"release {reference.repository!r}, SAE {reference.path!r}: {reason}"
        ) from error


def _refuse_cross_layer(reference: SubjectReference) -> None:
    """Refuse a layer of a cross-layer transcoder: SAELens sums its decoders over all layers.

    Raises:
        SubjectError: saying what can be judged.
    """
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    release = get_pretrained_saes_directory().get(reference.repository or "")
    if release is None:
        return
    folder = release.saes_map.get(reference.path or "", "")
    if "clt" in str(release.conversion_func) or "clt" in folder.split("/"):
        raise SubjectError(f"--sae {reference.source}: one layer of {CROSS_LAYER}")


def _expected_explained_variance(reference: SubjectReference) -> float | None:
    """Return the registry's figure; 1.0 there means that none was given."""
    if reference.repository is None:
        return None
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    release = get_pretrained_saes_directory().get(reference.repository)
    value = release.expected_var_explained.get(reference.path or "", 1.0) if release else 1.0
    return None if value == 1.0 else value
