"""Loading: from a reference, or an SAE object of any library, to a subject with its metadata."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from saebench.errors import SubjectError
from saebench.formats.converted import checked_downloads
from saebench.formats.library_warnings import listening
from saebench.formats.metadata import OLD_NAMES, check_config, metadata_of, parse_metadata
from saebench.formats.promises import promised
from saebench.formats.saelens import inference_sae
from saebench.formats.sparse_coder import SparseCoder
from saebench.formats.sparsify import described, hooks_of_module
from saebench.options import Overrides
from saebench.subjects.hub import (
    conversion_of,
    copied,
    expected_explained_variance,
    fetched,
    names_of,
    note_on_unlisted,
    overrides_of,
    refuse_cross_layer,
    registry_figures,
    with_release,
)
from saebench.subjects.made_controls import make_control
from saebench.subjects.modules import config_of
from saebench.subjects.normalisation import normalised
from saebench.subjects.references import SubjectReference
from saebench.subjects.sae import Subject
from saebench.text import first_line

METADATA = (
    "hook_name",
    "hook_head_index",
    "hook_name_out",
    "model_name",
    "context_size",
    "prepend_bos",
    "dataset_path",
    "model_from_pretrained_kwargs",
)
EMPTY = (None, "", {})
TEST_ROWS = 8  # activations
CLOSE = 1e-3  # relative; fp32 on other kernels is within 1e-5
CLOSE_HALF = 0.1  # for an SAE in half precision, which saebench computes in fp32


def adopted(sae: Any, *, id: str, where: str) -> tuple[Any, dict[str, Any]]:
    """Return an SAE object as a module with encode and decode, and its configuration.

    Args:
        sae: EleutherAI sparsify's ``SparseCoder``, or any module; one whose ``cfg`` or ``config``
            has a ``hook_name`` or ``hook_point``, as those of sae_bench's ``custom_saes`` have,
            brings its metadata.
        id: its name in the run; sparsify's own names, such as ``layers.5.mlp``, name a module.
        where: what messages call it.

    Raises:
        SubjectError: for a SparseCoder that cannot be judged.
    """
    if _is_sparse_coder(sae):
        return _of_sparsify(sae, id=id, where=where)
    declared = _flat(sae)
    if not declared.get("hook_name"):
        return sae, {}
    sizes = [key for key in ("d_in", "d_sae") if _is_size(declared, key)]
    config: dict[str, Any] = {key: declared[key] for key in sizes}
    if declared.get("architecture"):
        config["architecture"] = str(declared["architecture"])
    metadata = {key: declared[key] for key in METADATA if declared.get(key) is not None}
    return sae, config | {"metadata": metadata}


def _flat(sae: Any) -> dict[str, Any]:
    """Return an object's configuration without empty values, under the new names."""
    config = getattr(sae, "cfg", None) or getattr(sae, "config", None)
    names = (*METADATA, *OLD_NAMES, "d_in", "d_sae", "architecture")
    get = config.get if isinstance(config, Mapping) else lambda name: getattr(config, name, None)
    return {OLD_NAMES.get(name, name): get(name) for name in names if get(name) not in EMPTY}


def _is_size(config: Mapping[str, Any], key: str) -> bool:
    value = config.get(key)
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_sparse_coder(sae: Any) -> bool:
    """True for sparsify's class in any of its versions."""
    names = ("encoder", "W_dec", "b_dec", "num_latents")
    cfg = getattr(sae, "cfg", None)
    return (
        all(hasattr(sae, name) for name in names)
        and all(hasattr(cfg, name) for name in ("k", "expansion_factor"))
        and isinstance(sae.encoder, nn.Linear)
    )


def _of_sparsify(sae: Any, *, id: str, where: str) -> tuple[SparseCoder, dict[str, Any]]:
    if sae.W_dec is None:
        raise SubjectError(
            f"{where}: was loaded with decoder=False, so it reconstructs nothing; load it with "
            "its decoder"
        )
    cfg = sae.cfg
    config = dict(cfg.to_dict() if hasattr(cfg, "to_dict") else vars(cfg))
    config |= {"d_in": sae.b_dec.shape[0], "num_latents": sae.W_dec.shape[0]}
    coder = SparseCoder(sae.state_dict(), config)
    _check_same(coder, sae, where)
    metadata = {"model_class_name": "AutoModelForCausalLM"}
    metadata |= hooks_of_module(id, transcodes=bool(config.get("transcode")))
    return coder, described(config, where=where) | {"metadata": metadata}


@torch.inference_mode()
def _check_same(coder: SparseCoder, sae: Any, where: str) -> None:
    """Compare saebench's forward pass with the object's own, whose version may differ.

    Raises:
        SubjectError: where they differ.
    """
    dtype, device = sae.W_dec.dtype, sae.W_dec.device
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(TEST_ROWS, len(coder.W_enc), generator=generator, dtype=torch.float32)
    x = rows.to(device)
    ours = coder.decode(coder.encode(x))
    try:
        values, indices, *_ = sae.encode(x.to(dtype))
        theirs: Tensor = sae.decode(values, indices).float()
    except Exception as error:
        # The object's code is any version of sparsify's, or a user's.
        raise SubjectError(
            f"{where}: cannot be run as sparsify's SparseCoder: {error!r}"
        ) from error
    off = float((ours - theirs).norm() / theirs.norm().clamp_min(1e-12))
    if not off <= (CLOSE if dtype in (torch.float32, torch.float64) else CLOSE_HALF):
        raise SubjectError(
            f"{where}: looks like sparsify's SparseCoder, but its reconstructions are {off:.0%} "
            "off those of its configuration; wrap it in a module whose encode gives features "
            "[tokens, features] and whose decode takes them"
        )


def wrap_sae(sae: Any, *, id: str, overrides: Overrides) -> Subject:
    """Wrap an SAE object: SAELens' own, or any module with ``encode`` and ``decode``.

    Raises:
        SubjectError: where it has neither, or no metadata names its hook.
    """
    if not isinstance(sae, nn.Module) or not (hasattr(sae, "encode") and hasattr(sae, "decode")):
        raise SubjectError(
            f"sae: expected a SAELens SAE, a torch module with encode and decode, or a SPEC; "
            f"found {type(sae).__name__}"
        )
    where = f"{type(sae).__name__} object"
    with listening() as collected:
        declared: dict[str, Any] = {}
        if config_of(sae):
            sae = inference_sae(sae) if hasattr(sae, "save_inference_model") else sae
            check_config(config_of(sae), where=where)
        else:
            sae, declared = adopted(sae, id=id, where=where)
        config = config_of(sae) or declared
        metadata = parse_metadata(config, overrides, where=where)
        folded = normalised(sae, overrides, source=where, version=_version_of(config), given=True)
        metadata = replace(metadata, notes=metadata.notes + folded.notes)
        subject = Subject(
            folded.sae,
            id=id,
            source=where,
            metadata=metadata,
            config=declared,
            waits=folded.waits,
        )
    subject.promises = promised(config, where=where)
    return _with_notes(subject, collected.notes(source=where))


def load_subject(reference: SubjectReference, *, overrides: Overrides, device: str) -> Subject:
    """Load a referenced SAE.

    Raises:
        SubjectError: where it cannot be loaded or judged.
    """
    with listening() as collected:
        reference = with_release(fetched(reference))
        refuse_cross_layer(reference)
        sae = _loaded(reference)
    notes = collected.notes(source=reference.source)
    named = copied(reference)
    notes += note_on_unlisted(named) if reference.directory is not None else ()
    config = _completed(reference.config or config_of(sae), named)
    if reference.config is None:
        check_config(config, where=reference.where)
    metadata = parse_metadata(config, overrides, where=reference.where)
    folded = normalised(
        sae,
        overrides,
        source=reference.source,
        directory=reference.directory,
        version=_version_of(config),
    )
    sae, metadata = folded.sae, replace(metadata, notes=metadata.notes + folded.notes)
    if reference.control is not None:
        sae, config = make_control(reference.control, sae), {}
    subject = Subject(
        sae.to(device),
        id=reference.id,
        source=reference.source,
        metadata=metadata,
        config=config,
        waits=folded.waits,
    )
    _refuse_unusable(subject)
    subject.expected_explained_variance = expected_explained_variance(named)
    if reference.control is None:
        names = (*names_of(named), *names_of(reference))
        subject.promises = promised(
            config, where=reference.where, registry=registry_figures(named), names=names
        )
    return _with_notes(subject, notes)


def _with_notes(subject: Subject, notes: tuple[str, ...]) -> Subject:
    subject.metadata = replace(subject.metadata, notes=subject.metadata.notes + notes)
    return subject


def _version_of(config: dict[str, Any]) -> str | None:
    """Return the version of SAELens that trained the SAE, else that wrote its configuration."""
    data = metadata_of(config)
    version = data.get("sae_lens_training_version") or data.get("sae_lens_version")
    return version if isinstance(version, str) else None


def _completed(config: dict[str, Any], reference: SubjectReference) -> dict[str, Any]:
    """Return an SAE's configuration with the registry's overrides.

    SAELens 6 does not read them from where it puts them, and has none for a directory.

    Raises:
        SubjectError: for a copy of an SAE that its release reads differently.
    """
    over = overrides_of(reference)
    kind = over.pop("normalize_activations", None)
    if kind is not None and kind != config.get("normalize_activations"):
        raise SubjectError(
            f"{reference.source}: its release normalises activations ({kind}), and the copy's "
            f"configuration does not say so; give it by release: --sae "
            f"{reference.repository}:{reference.path}"
        )
    metadata = config.get("metadata")
    if isinstance(metadata, dict):
        return config | {"metadata": metadata | over}
    return config | over


def _refuse_unusable(subject: Subject) -> None:
    """Run the SAE on zeros, to refuse one whose configuration and weights do not fit.

    Raises:
        SubjectError: where it fails, or its output has another width than configured.
    """
    if not subject.d_in:
        return
    first = next(subject.sae.parameters(), None)
    x = torch.zeros(
        2, subject.d_in, dtype=torch.float32, device=first.device if first is not None else None
    )
    try:
        x_hat = subject.reconstruct(x).x_hat
    except Exception as error:
        # torch, and a third party's SAE, may raise anything.
        if isinstance(error, SubjectError) and error.__cause__ is None:
            raise
        raise SubjectError(
            f"{subject.source}: cannot be run on activations {subject.d_in} wide: "
            f"{error.__cause__ or error!r}"
        ) from error
    if x_hat.shape != (2, subject.d_out):
        raise SubjectError(
            f"{subject.source}: gives {x_hat.shape[-1]} components, its configuration says "
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
        # Download, conversion and parsing may raise anything.
        raise SubjectError(
            f"--sae {reference.source}: neither a directory nor loadable through SAELens as "
            f"release {reference.repository!r}, SAE {reference.path!r}: "
            f"{first_line(error)}"
        ) from error


def _overriding(reference: SubjectReference) -> Callable[..., Any]:
    """Return SAELens' converter, with the overrides of the repository's releases.

    SAELens applies them only to SAEs that are given by their release.
    """
    from sae_lens.loading import pretrained_sae_loaders as loaders

    named = conversion_of(reference) or loaders.get_conversion_loader_name("")
    convert, over = loaders.NAMED_PRETRAINED_SAE_LOADERS[named], overrides_of(reference)

    def converted(*args: Any, cfg_overrides: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        return convert(*args, cfg_overrides=over | (cfg_overrides or {}), **kwargs)

    return converted
