"""KL and cross-entropy from final hidden states, with a gradient of their own, in chunks of rows.

Autograd would keep the logits of every token twice, P's and Q's, for the way back. The gradient
with respect to the logits is known where they are (q - p, or q less the true token's one-hot), so
it is carried back to the hidden state at once and only that is kept.
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saebench.subjects.host import Host

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
