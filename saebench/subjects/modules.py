"""What a module that encodes and decodes tells of itself, and what of it is refused."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from saebench.errors import SubjectError


def refuse_unfolded(sae: Any, source: str) -> None:
    """Refuse a normalisation whose factor is neither in the weights nor at hand.

    Raises:
        SubjectError: naming it and how to fold it.
    """
    kind = getattr(getattr(sae, "cfg", None), "normalize_activations", "none")
    if kind in ("expected_average_only_in", "covariance_whitening"):
        raise SubjectError(
            f"{source}: normalize_activations={kind!r} is not folded into the weights, and no"
            " factor is at hand; say what it is, or that it is folded: --sae-norm-factor"
            " NUMBER|folded|estimate (from Python: norm_factor=…)"
        )


def without_reshaping(sae: Any) -> Any:
    """Return the SAE with hook_z reshaping off: it keeps state, and sites hand over flat heads."""
    if not getattr(sae, "hook_z_reshaping_mode", False):
        return sae
    sae = copy.deepcopy(sae)
    sae.turn_off_forward_pass_hook_z_reshaping()
    return sae


def refuse_non_finite(sae: nn.Module, source: str) -> None:
    """Refuse weights that are NaN or infinite.

    Raises:
        SubjectError: naming the first such tensor.
    """
    for name, tensor in sae.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            bad = int((~torch.isfinite(tensor)).sum())
            raise SubjectError(
                f"{source}: {name} has {bad} values that are NaN or infinite of {tensor.numel()}; "
                "the training diverged or the file is damaged"
            )


@torch.inference_mode()
def decoder_of(sae: Any) -> Tensor | None:
    """Return W_dec where its rows are the features' directions, else None.

    SAELens' are; of other modules it is tried, since some keep the transpose under that name.
    """
    weight = getattr(sae, "W_dec", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        return None
    if config_of(sae):
        return weight.detach()
    features = torch.zeros(2, len(weight), dtype=weight.dtype, device=weight.device)
    features[1, -1] = 1
    try:
        nothing, last = sae.decode(features)
    except (RuntimeError, ValueError, TypeError, IndexError):
        return None
    same = last.shape == weight[-1].shape and torch.allclose(last - nothing, weight[-1], atol=1e-4)
    return weight.detach() if same else None


def decoder_norm(sae: nn.Module, decoder: Tensor | None) -> Tensor | None:
    """Return what turns |f| into |f|·‖d_f‖, or None where there is no decoder matrix."""
    if decoder is None:
        return None
    rescaled = getattr(getattr(sae, "cfg", None), "rescale_acts_by_decoder_norm", False)
    norm = decoder.norm(dim=-1)
    return torch.ones_like(norm) if rescaled else norm


def config_of(sae: Any) -> dict[str, Any]:
    """Return the configuration of a SAELens SAE; empty for other modules."""
    to_dict = getattr(getattr(sae, "cfg", None), "to_dict", None)
    return to_dict() if to_dict is not None else {}
