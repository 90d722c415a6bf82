"""Which SAEs can be repaired, and what repair can do for each architecture."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saebench.errors import SubjectError
from saebench.fit.repair.repair_job import Method

NOTES = {
    "standard": None,
    "gated": (
        "gated: the penalty was on the gate alone, so that magnitudes should hardly be suppressed; "
        "the gate's bias has no gradient, the encoder methods fit the magnitudes' biases"
    ),
    "jumprelu": (
        "jumprelu: trained on a penalty that does not depend on the features' size (L0, or "
        "BatchTopK saved as JumpReLU), so that little is suppressed: what decoder methods gain is "
        "fit; "
        "thresholds stay as they are"
    ),
    "topk": (
        "topk: trained without a penalty, so that nothing is suppressed and there is no scale to "
        "fix: what decoder methods gain is fit; l0 stays k whatever is fitted"
    ),
}
NEEDED = {
    "standard": ("W_enc", "b_enc", "W_dec", "b_dec"),
    "gated": ("W_enc", "b_gate", "b_mag", "r_mag", "W_dec", "b_dec"),
    "jumprelu": ("W_enc", "b_enc", "threshold", "W_dec", "b_dec"),
    "topk": ("W_enc", "b_enc", "W_dec", "b_dec"),
}


def check_repairable(sae: Any, *, where: str, method: Method) -> tuple[str, ...]:
    """Return what has to be said of an SAE before it is repaired.

    Args:
        sae: the SAE.
        where: where it came from.
        method: what is to be fitted.

    Raises:
        SubjectError: for an architecture that has no factor between features and decoder, for
            parameters that are missing, and for an encoder tied to the decoder.
    """
    named = getattr(getattr(sae, "cfg", None), "architecture", None)
    architecture = str(named()) if callable(named) else ""
    if architecture not in NEEDED or not hasattr(sae, "run_time_activation_norm_fn_out"):
        raise SubjectError(
            f"{where}: repair knows SAELens' {', '.join(NEEDED)} SAEs, found "
            f"{architecture or type(sae).__name__}; save it in one of these forms first"
        )
    missing = [n for n in NEEDED[architecture] if not isinstance(getattr(sae, n, None), Tensor)]
    if missing:
        raise SubjectError(
            f"{where}: a {architecture} SAE without {', '.join(missing)}: there is nothing there "
            "to repair; expected all of " + ", ".join(NEEDED[architecture])
        )
    _refuse_tied(sae, where)
    note = NOTES[architecture]
    said = [] if note is None or method is Method.BASELINE else [note]
    return (*said, *_folding_note(sae, method))


def _refuse_tied(sae: Any, where: str) -> None:
    shared = sae.W_enc.untyped_storage().data_ptr() == sae.W_dec.untyped_storage().data_ptr()
    same = sae.W_enc.T.shape == sae.W_dec.shape and torch.equal(sae.W_enc.T, sae.W_dec)
    if shared or same:
        raise SubjectError(
            f"{where}: W_dec is the transpose of W_enc: they are tied (or were never trained), and "
            "repair changes the one without the other; train it untied first"
        )


def _folding_note(sae: Any, method: Method) -> tuple[str, ...]:
    """Say where saved features agree to rounding, not bit by bit."""
    if not method.keeps_features:
        return ()
    if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
        return ("decoder norms were folded into the encoder: features agree to rounding",)
    if method.fits_output_bias and sae.cfg.apply_b_dec_to_input:
        return (
            "the SAE subtracts b_dec from its input: the encoder's bias takes up what b_dec moved, "
            "and saved features agree to rounding",
        )
    return ()


NEAR = 1.25  # a penalty within this factor of the one that the SAE rests at explains it


@dataclass(frozen=True)
class Penalty:
    """An L1 penalty in SAELens' units: its loss is ‖y - x‖² + c·Σ f‖d_f‖.

    Attributes:
        coefficient: c; None where another penalty or none was used, or nothing is known.
        note: what the user should know of it.
    """

    coefficient: float | None
    note: str | None = None


def penalty_of(sae: Any, x: Float[Tensor, "tokens d"]) -> Penalty:
    """Return the L1 penalty that the SAE was trained with.

    The metadata's coefficient is that of the activations in training. Where those were brought
    to the norm √d, SAELens folds the factor s = √d/E‖x‖ into the weights on saving and says
    nothing of it: on plain activations the same penalty is c/s. Which of the two it was shows in
    the SAE itself, which rests where its penalty balances its error.

    Args:
        sae: a SAELens SAE.
        x: activations at its hook.
    """
    told = _told(sae)
    if told is None:
        return Penalty(None)
    found = balance(sae, x)
    folded = told * float(x.norm(dim=-1).mean()) / math.sqrt(x.shape[1])
    if not found > 0:
        return Penalty(told, "the SAE does not rest at any L1 penalty on these activations")
    nearest = min((told, folded), key=lambda c: abs(math.log(c / found)))
    if abs(math.log(nearest / found)) > math.log(NEAR):
        return Penalty(
            told,
            f"the SAE rests at an L1 penalty of {found:.3g} on these activations, its metadata "
            f"says {told:g}: other texts, other activations, or a training that had not converged",
        )
    if nearest == told:
        return Penalty(told)
    return Penalty(
        folded,
        f"the metadata's L1 coefficient {told:g} is that of activations of norm √d, a factor "
        f"folded into the weights: on these it is {folded:.3g} (the SAE rests at {found:.3g})",
    )


@torch.no_grad()
def balance(sae: Any, x: Float[Tensor, "tokens d"]) -> float:
    """Return the L1 coefficient at which making all features larger or smaller gains nothing.

    Of ‖x - b - α·Σ f d‖² + c·α·Σ f‖d‖ the derivative in α is zero at α = 1 for
    c = 2·Σ (x - x̂)·(x̂ - b) / Σ f‖d‖: where a converged SAE stands, c is its penalty.

    Args:
        sae: a SAELens SAE.
        x: activations at its hook.

    Example:
        >>> from sae_lens import StandardSAE, StandardSAEConfig
        >>> sae = StandardSAE(StandardSAEConfig(d_in=1, d_sae=1, apply_b_dec_to_input=False))
        >>> with torch.no_grad():
        ...     _ = [p.fill_(v) for p, v in ((sae.W_enc, 0.75), (sae.W_dec, 1.0))]
        >>> round(balance(sae, torch.full((4, 1), 2.0)), 6)  # 2 becomes 1.5: c/2 is taken off
        1.0
    """
    features = sae.encode(x)
    features = features.to_dense() if features.is_sparse else features
    reconstruction = sae.decode(features)
    gained = 2 * ((x - reconstruction) * (reconstruction - sae.b_dec)).double().sum()
    size = (features * sae.W_dec.norm(dim=1)).double().sum()
    return float(gained / size)


def _told(sae: Any) -> float | None:
    details = sae.cfg.metadata.training_architecture_details or {}
    plain = sae.cfg.architecture() == "standard" and details.get("lp_norm", 1.0) == 1.0
    value = details.get("l1_coefficient") if plain else None
    return float(value) if isinstance(value, int | float) and value > 0 else None
