"""KL, cross-entropy, total variation and top-1 agreement of logits, one row for each token."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

PART = 256  # of a vocabulary


@dataclass(frozen=True)
class CleanRows:
    """The clean side of a chunk of rows, computed once and shared by every intervention."""

    logits: Float[Tensor, "rows vocab"]
    log_sum_exp: Float[Tensor, "rows"]
    probabilities: Float[Tensor, "rows vocab"]
    top1: Int[Tensor, "rows"]


@dataclass(frozen=True)
class RowReadout:
    """How one intervention changed each row's next-token distribution."""

    kl: Float[Tensor, "rows"]
    ce: Float[Tensor, "rows"]
    tv: Float[Tensor, "rows"]
    agrees: Bool[Tensor, "rows"]

    @property
    def overflowed(self) -> Bool[Tensor, "rows"]:
        """Rows whose logits changed by more than exp can represent in fp32."""
        return ~(torch.isfinite(self.kl) & torch.isfinite(self.tv))


def clean_rows(logits: Float[Tensor, "rows vocab"]) -> CleanRows:
    """Return the quantities of the clean distribution P that every intervention is compared with.

    Args:
        logits: fp32 logits, one row for each token.
    """
    most, where = maximum(logits)
    probabilities = (logits - most[:, None]).exp_()
    total = probabilities.sum(dim=-1)
    log_sum_exp = most + total.log()
    return CleanRows(logits, log_sum_exp, probabilities.div_(total[:, None]), where)


def cross_entropy(clean: CleanRows, targets: Int[Tensor, "rows"]) -> Float[Tensor, "rows"]:
    """Return the clean model's -ln P(target) of each row, in nats."""
    return clean.log_sum_exp - clean.logits.gather(1, targets[:, None])[:, 0]


def compare(
    clean: CleanRows,
    logits: Float[Tensor, "#rows vocab"],
    *,
    targets: Int[Tensor, "rows"],
    settle: bool = True,
) -> RowReadout:
    """Return KL(P‖Q), -ln Q(target), ½Σ|p - q| and argmax agreement of each row.

    With d = z_Q - z_P, d̄ = Σ p d and u = d - d̄, KL(P‖Q) = ln(1 + Σ p (e^u - 1 - u)): Σ p u is
    zero in exact arithmetic, and including it would add its rounding. The terms are as small as
    the divergence itself, so that fp32 keeps the relative precision that the difference of two
    log-sum-exps of size 10 loses below KL ≈ 1e-5.

    Args:
        clean: the clean side, from :func:`clean_rows`.
        logits: fp32 logits of the changed model; one row if they are the same for all.
        targets: the true next tokens.
        settle: compute rows that overflow fp32 again in float64. Finding out whether there are
            any needs a GPU sync: False leaves that to the caller.

    Source:
        docs/metrics.md (fidelity); Gurnee 2024, "SAE reconstruction errors are (empirically)
        pathological".

    Example:
        >>> z = torch.tensor([[1.0, 2.0, 3.0]])
        >>> compare(clean_rows(z), z, targets=torch.tensor([2])).kl.item()
        0.0
    """
    p = clean.probabilities
    shift = logits - clean.logits
    mean_shift = torch.linalg.vecdot(p, shift)
    shift.sub_(mean_shift[:, None])
    ratio = shift.expm1()
    kl = torch.linalg.vecdot(p, torch.sub(ratio, shift, out=shift)).clamp_min_(0).log1p_()
    every = logits.expand_as(p)
    target_score = every.gather(1, targets[:, None])[:, 0] - clean.log_sum_exp
    ce = mean_shift + kl - target_score
    # q/p = (ratio + 1)/e^kl, hence q - p = p·(ratio - expm1(kl))/e^kl.
    tv = 0.5 * torch.linalg.vecdot(p, ratio.sub_(kl.expm1()[:, None]).abs_()) / kl.exp()
    readout = RowReadout(kl, ce, tv, maximum(logits)[1] == clean.top1)
    if settle and readout.overflowed.any():
        return replace(readout, **in_float64(clean.logits, every, targets=targets))
    return readout


def maximum(
    logits: Float[Tensor, "rows vocab"],
) -> tuple[Float[Tensor, "rows"], Int[Tensor, "rows"]]:
    """Return each row's maximum and its index, the first if there are several.

    On a CPU a maximum is ten times faster than an argmax: the maximum of each part of the row is
    computed first, and then the argmax of one part.

    Example:
        >>> maximum(torch.tensor([[1.0, 3.0, 3.0]]))
        (tensor([3.]), tensor([1]))
    """
    vocab = logits.shape[1]
    width = min(PART, vocab)
    full = vocab // width * width
    parts = [logits[:, :full].unflatten(1, (-1, width)).amax(dim=-1)]
    if full < vocab:
        parts.append(logits[:, full:].amax(dim=-1, keepdim=True))
    most, part = torch.cat(parts, dim=1).max(dim=-1, keepdim=True)
    start = width * part
    places = (start + torch.arange(width, device=logits.device)).clamp_max_(vocab - 1)
    return most[:, 0], start[:, 0] + logits.gather(1, places).argmax(dim=-1)


def in_float64(
    clean_logits: Float[Tensor, "rows vocab"],
    logits: Float[Tensor, "rows vocab"],
    *,
    targets: Int[Tensor, "rows"],
) -> dict[str, Float[Tensor, "rows"]]:
    """Return kl, ce and tv by float64 log-softmax, for logits whose difference overflows fp32.

    Example:
        >>> z = torch.tensor([[0.0, 1000.0]])
        >>> in_float64(z, -z, targets=torch.tensor([1]))["kl"].item()
        1000.0
    """
    log_p = clean_logits.double().log_softmax(dim=-1)
    log_q = logits.double().log_softmax(dim=-1)
    p = log_p.exp()
    return {
        "kl": (p * (log_p - log_q)).sum(dim=-1),
        "ce": -log_q.gather(1, targets[:, None])[:, 0],
        "tv": 0.5 * (p - log_q.exp()).abs().sum(dim=-1),
    }
