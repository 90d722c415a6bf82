"""SAE objects of other libraries than SAELens: what they say of themselves, in SAELens' terms."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from saebench.errors import SubjectError
from saebench.subjects.loaders.sparse_coder import SparseCoder
from saebench.subjects.loaders.sparsify import described, hooks_of_module
from saebench.subjects.metadata import OLD_NAMES

TOLD = (
    "hook_name",
    "hook_head_index",
    "hook_name_out",
    "model_name",
    "context_size",
    "prepend_bos",
    "dataset_path",
    "model_from_pretrained_kwargs",
)
TRIED = 8  # activations
CLOSE = 1e-3  # relative; fp32 on other kernels is within 1e-5
CLOSE_HALF = 0.1  # of an SAE in half precision, which saebench computes in fp32


def adopted(sae: Any, *, id: str, where: str) -> tuple[Any, dict[str, Any]]:
    """Return an SAE object as a module that encodes and decodes, and its configuration.

    Args:
        sae: EleutherAI sparsify's ``SparseCoder``, or any module; one whose ``cfg`` or ``config``
            has a ``hook_name`` or ``hook_point``, as those of sae_bench's ``custom_saes`` have,
            says where it belongs.
        id: its name in the run; sparsify's own names, such as ``layers.5.mlp``, say its module.
        where: what messages call it.

    Raises:
        SubjectError: for a SparseCoder that cannot be judged.
    """
    if _is_sparse_coder(sae):
        return _of_sparsify(sae, id=id, where=where)
    told = _flat(sae)
    if not told.get("hook_name"):
        return sae, {}
    config: dict[str, Any] = {key: told[key] for key in ("d_in", "d_sae") if _is_size(told, key)}
    if told.get("architecture"):
        config["architecture"] = str(told["architecture"])
    return sae, config | {"metadata": {key: told[key] for key in TOLD if told.get(key) is not None}}


def _flat(sae: Any) -> dict[str, Any]:
    """Return an object's configuration without what it leaves empty; old names become new."""
    found = getattr(sae, "cfg", None) or getattr(sae, "config", None)
    names = (*TOLD, *OLD_NAMES, "d_in", "d_sae", "architecture")
    get = found.get if isinstance(found, Mapping) else lambda name: getattr(found, name, None)
    given = {name: get(name) for name in names}
    kept = {name: value for name, value in given.items() if value not in (None, "", {})}
    return {OLD_NAMES.get(name, name): value for name, value in kept.items()}


def _is_size(told: Mapping[str, Any], key: str) -> bool:
    value = told.get(key)
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_sparse_coder(sae: Any) -> bool:
    """True for sparsify's class, whichever its version and module were called."""
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
    told = dict(cfg.to_dict() if hasattr(cfg, "to_dict") else vars(cfg))
    told |= {"d_in": sae.b_dec.shape[0], "num_latents": sae.W_dec.shape[0]}
    coder = SparseCoder(sae.state_dict(), told)
    _check_same(coder, sae, where)
    metadata = {"model_class_name": "AutoModelForCausalLM"}
    metadata |= hooks_of_module(id, transcodes=bool(told.get("transcode")))
    return coder, described(told, where=where) | {"metadata": metadata}


@torch.inference_mode()
def _check_same(coder: SparseCoder, sae: Any, where: str) -> None:
    """Hold saebench's forward pass against the object's own: its version may compute otherwise.

    Raises:
        SubjectError: where they differ.
    """
    dtype, device = sae.W_dec.dtype, sae.W_dec.device
    drawn = torch.randn(
        TRIED, coder.W_enc.shape[0], generator=torch.Generator().manual_seed(0), dtype=torch.float32
    )
    x = drawn.to(device)
    ours = coder.decode(coder.encode(x))
    try:
        values, indices, *_ = sae.encode(x.to(dtype))
        theirs: Tensor = sae.decode(values, indices).float()
    except Exception as error:
        # The object's code is sparsify's of any version, or a user's.
        raise SubjectError(
            f"{where}: cannot be run as sparsify's SparseCoder: {error!r}"
        ) from error
    off = float((ours - theirs).norm() / theirs.norm().clamp_min(1e-12))
    if not off <= (CLOSE if dtype in (torch.float32, torch.float64) else CLOSE_HALF):
        raise SubjectError(
            f"{where}: looks like sparsify's SparseCoder, but its reconstructions are {off:.0%} "
            "off what its configuration says; wrap it in a module whose encode gives features "
            "[tokens, features] and whose decode takes them"
        )
