"""Which SAEs can be repaired, and what repair can do for each architecture."""

from typing import Any

import torch
from torch import Tensor

from saebench.errors import SubjectError
from saebench.repair.methods import Method

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
