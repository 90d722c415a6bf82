"""An SAE's output with its gradient, without work for the many features that do not fire."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float
from torch import Tensor

from saebench.subjects.features import SPARSE_FROM, SPARSE_SHARE, Active


@dataclass(frozen=True)
class Coded:
    """What an SAE made of some activations.

    Attributes:
        x_hat: reconstructions.
        fired: the features that are not zero at one of the tokens or more.
        values: of features, all that are not zero among them.
        size: Σ f·‖d‖, a mean over tokens; None where it was not asked for.
    """

    x_hat: Float[Tensor, "tokens d"]
    fired: Bool[Tensor, "features"]
    values: Float[Tensor, "..."]
    size: Float[Tensor, ""] | None


def code(sae: Any, x: Float[Tensor, "tokens d"], *, sized: bool = False) -> Coded:
    """Encode and decode as SAELens does, with the same gradients.

    A TopK SAE's few features are picked without a gradient and carried on as a list; of other
    SAEs with many features the decoder is applied to those that fire. That changes no gradient:
    a feature that is zero gets none through ReLU or TopK.

    Args:
        sae: SAELens' training form, as :func:`~saebench.training.sae.make_sae` makes it.
        x: activations.
        sized: give the size, which L1 penalises.

    Example:
        >>> from saebench.training.objectives import Sparsity
        >>> from saebench.training.sae import make_sae
        >>> sae = make_sae(d_in=4, d_sae=16, sparsity=Sparsity("topk", 2), metadata={}, seed=0)
        >>> x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
        >>> torch.allclose(code(sae, x).x_hat, sae(x), atol=1e-6)
        True
    """
    if sae.cfg.architecture() == "topk" and not sized:
        return _few(sae, x)
    features, _ = sae.encode_with_hidden_pre(x)
    size = sizes(sae, features).mean() if sized else None
    fired = features.detach().ne(0).any(dim=0)
    return Coded(_decoded(sae, features), fired, features, size)


def sizes(sae: Any, features: Float[Tensor, "tokens features"]) -> Float[Tensor, "tokens"]:
    """Return Σ f·‖d‖ of each token: SAELens' L1 penalty, which no rescaling changes."""
    return features @ sae.W_dec.norm(dim=1)


def _few(sae: Any, x: Tensor) -> Coded:
    """Pick each token's k features by the rank that SAELens gives them, and list them."""
    before = sae.process_sae_in(x) @ sae.W_enc + sae.b_enc
    with torch.no_grad():
        rank = before
        if sae.cfg.rescale_acts_by_decoder_norm:
            rank = before * sae.W_dec.norm(dim=1)
        which = rank.topk(sae.cfg.k, dim=1, sorted=False).indices
    # The norm that SAELens multiplies features by is divided out again where they are decoded.
    values = before.gather(1, which).relu()
    x_hat = F.embedding_bag(which, sae.W_dec, per_sample_weights=values, mode="sum") + sae.b_dec
    fired = torch.zeros(len(sae.W_dec), dtype=torch.bool, device=x.device)
    fired[which[values.detach() > 0]] = True
    return Coded(x_hat, fired, values, None)


def _decoded(sae: Any, features: Tensor) -> Tensor:
    most = SPARSE_SHARE * features.numel()
    if features.shape[1] < SPARSE_FROM or int(features.detach().count_nonzero()) > most:
        return sae.decode(features)
    rescaled = getattr(sae.cfg, "rescale_acts_by_decoder_norm", False)
    return Active.of(features).decoded(sae.W_dec, sae.b_dec, rescaled=rescaled)
