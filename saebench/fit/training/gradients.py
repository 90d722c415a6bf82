"""An SAE's output with its gradient, without work for the many features that do not fire."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saebench.subjects.features import SPARSE_FROM, SPARSE_SHARE, Active
from saebench.subjects.host import Host


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
        sae: SAELens' training form, made by :func:`~saebench.fit.training.training_sae.make_sae`.
        x: activations.
        sized: give the size, which L1 penalises.

    Example:
        >>> from saebench.fit.training.objectives import Sparsity
        >>> from saebench.fit.training.training_sae import make_sae
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


ROWS_AT_ONCE = 128  # on a CPU: few enough for the cache, enough for a fast product
LOGITS_AT_ONCE = 1 << 26  # elsewhere


def kl_mean(
    host: Host, changed: Float[Tensor, "rows d"], clean: Float[Tensor, "rows d"]
) -> Float[Tensor, ""]:
    """Return KL(P‖Q) in nats, a mean over rows, differentiable in Q's hidden states.

    Args:
        host: the model, for its unembedding.
        changed: final hidden states of Q.
        clean: those of P; no gradient flows into them.
    """
    return cast("Tensor", _Chunked.apply(changed, clean, None, host))


def cross_entropy_mean(
    host: Host, changed: Float[Tensor, "rows d"], targets: Int[Tensor, "rows"]
) -> Float[Tensor, ""]:
    """Return -ln Q(target) in nats, a mean over rows, differentiable in Q's hidden states.

    Args:
        host: the model, for its unembedding.
        changed: final hidden states of Q.
        targets: the true next tokens.
    """
    return cast("Tensor", _Chunked.apply(changed, None, targets, host))


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, changed: Tensor, clean: Tensor | None, targets: Tensor | None, host: Host
    ) -> Tensor:
        total = torch.zeros((), dtype=torch.float64, device=changed.device)
        gradient = torch.empty_like(changed) if changed.requires_grad else None
        for rows in _chunks(len(changed), host):
            logits = host.logits(changed[rows])
            if clean is not None:
                value, slope = _kl(host.logits(clean[rows]), logits)
            else:
                assert targets is not None
                value, slope = _cross_entropy(logits, targets[rows])
            total += value
            if gradient is not None:
                gradient[rows] = host.back_through_logits(slope, logits).to(gradient.dtype)
        ctx.gradient = None if gradient is None else gradient.div_(len(changed))
        return (total / len(changed)).float()

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        return outer[0] * ctx.gradient, None, None, None


def _kl(clean: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of KL(P‖Q) over rows, and its gradient in Q's logits: q - p."""
    log_p, log_q = clean.log_softmax(dim=-1), logits.log_softmax(dim=-1)
    p = log_p.exp()
    value = (p * log_p.sub_(log_q)).sum(dtype=torch.float64)
    return value, log_q.exp_().sub_(p)


def _cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of -ln Q(target) over rows, and its gradient: q less the one-hot target."""
    log_q, goals = logits.log_softmax(dim=-1), targets[:, None]
    value = -log_q.gather(1, goals).sum(dtype=torch.float64)
    slope = log_q.exp_()
    return value, slope.scatter_add_(1, goals, slope.new_full(goals.shape, -1.0))


def _chunks(rows: int, host: Host) -> Iterator[slice]:
    on_cpu = host.device.type == "cpu"
    size = ROWS_AT_ONCE if on_cpu else max(1, LOGITS_AT_ONCE // host.vocab_size)
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))
