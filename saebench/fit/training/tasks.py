"""What a training fits: an SAE on activations' squared error, or on the whole model's loss."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saebench.fit.stream import counted_of
from saebench.fit.training import Loss, Objective
from saebench.fit.training.sublayers import Original, ResumedPasses, Sublayers
from saebench.fit.training.training_sae import (
    Coded,
    TrainedSAE,
    code,
    dense,
    saelens_loss,
    sizes,
)
from saebench.subjects.hooks import Site
from saebench.subjects.host import Host
from saebench.substitution.batches import read_rows, write_rows

CHECKED_ROWS = 16  # validation rows at once
CHECKED_TOKENS = 4096  # validation activations at once
ROWS_AT_ONCE = 128  # on a CPU: few enough for the cache, enough for a fast product
LOGITS_AT_ONCE = 1 << 26  # elsewhere


@dataclass(frozen=True)
class Weights:
    """Loss weights.

    Attributes:
        sparsity: the L1 coefficient.
        warm_up_tokens: the first tokens, over which it rises.
        without_sae: of the changed model without the SAE, in non-intrusive training.
        dead_after_tokens: without firing, after which SAELens' auxiliary loss of TopK counts a
            feature as dead; the whole model's loss has no auxiliary loss.
    """

    sparsity: float = 0.0
    warm_up_tokens: int = 0
    without_sae: float = 1.0
    dead_after_tokens: int = 1_000_000


class StandardTask:
    """SAELens' own loss on activations.

    Args:
        sae: SAELens' training form.
        validation: activations for the checks.
        weights: of the loss.
    """

    def __init__(
        self, sae: Any, validation: Float[Tensor, "tokens d"], *, weights: Weights
    ) -> None:
        self.trained = TrainedSAE(sae)
        self._validation, self._weights = validation, weights

    @property
    def module(self) -> nn.Module:
        """The training SAE."""
        return self.trained

    def loss(self, batch: Float[Tensor, "tokens d"]) -> Tensor:
        """Return SAELens' training loss."""
        loss, fired = saelens_loss(
            self.trained.sae,
            batch,
            coefficients={"l1": _warmed(self._weights, self.trained)},
            dead=self.trained.silent_for(self._weights.dead_after_tokens),
        )
        self.trained.count(fired, tokens=len(batch))
        return loss

    @torch.no_grad()
    def check(self) -> float:
        """Return squared error and penalty on the validation activations."""
        sae, total = self.trained.sae, 0.0
        for x in self._validation.split(CHECKED_TOKENS):
            features, _ = sae.encode_with_hidden_pre(x)
            error = (sae.decode(features) - x).double().square().sum()
            total += float(error) + self._weights.sparsity * float(sizes(sae, features).sum())
        return total / len(self._validation)

    @torch.no_grad()
    def validation_features(self) -> Iterator[Float[Tensor, "tokens features"]]:
        """Give the features of the validation activations, some at a time."""
        for x in self._validation.split(CHECKED_TOKENS):
            yield dense(self.trained.sae.encode(x))

    def stepped(self) -> None:
        """Do nothing after a step, as SAELens' training does."""


class WholeModelTask:
    """The whole model's loss with the SAE in it, and the penalty.

    Args:
        sae: SAELens' training form.
        passes: of the host, with its trained half-layers where there are any.
        objective: one that is of the whole model.
        loss: KL to the original model, or the next token's cross-entropy.
        validation: rows for the checks.
        weights: of the loss.
        sublayers: the trained half-layers.
    """

    def __init__(
        self,
        sae: Any,
        passes: ResumedPasses,
        *,
        objective: Objective,
        loss: Loss,
        validation: Int[Tensor, "rows context"],
        weights: Weights,
        sublayers: Sublayers | None = None,
    ) -> None:
        self.trained = TrainedSAE(sae)
        self._module = nn.ModuleDict({"sae": self.trained})
        if sublayers is not None:
            self._module["halves"] = sublayers  # its name in checkpoints
        self._passes, self._loss, self._weights = passes, loss, weights
        self._both = objective is Objective.NON_INTRUSIVE
        self._validation = validation

    @property
    def module(self) -> nn.Module:
        """The training SAE, and the half-layers."""
        return self._module

    def loss(self, batch: Int[Tensor, "rows context"]) -> Tensor:
        """Return the loss of a batch of rows, in nats a token."""
        terms = self._terms(batch)
        sparsity = _warmed(self._weights, self.trained)
        self.trained.count(terms.coded.fired, tokens=len(terms.coded.x_hat))
        self._update_threshold(terms.coded.values)
        return terms.total(sparsity, self._weights.without_sae)

    @torch.no_grad()
    def check(self) -> float:
        """Return the loss on the validation rows."""
        total, rows = 0.0, 0
        for ids in self._validation.split(CHECKED_ROWS):
            loss = self._terms(ids).total(self._weights.sparsity, self._weights.without_sae)
            total += loss.item() * len(ids)
            rows += len(ids)
        return total / rows

    @torch.no_grad()
    def validation_features(self) -> Iterator[Float[Tensor, "tokens features"]]:
        """Give the features of the validation rows, some at a time."""
        host, site = self._passes.host, self._passes.site
        for ids in self._validation.split(CHECKED_ROWS):
            substitution = _Substitution(
                self.trained.sae, site, counted_of(ids, host.special_ids).to(host.device)
            )
            original = self._passes.original(ids.to(host.device))
            self._passes.final(original, substitution)
            assert substitution.x is not None
            yield dense(self.trained.sae.encode_with_hidden_pre(substitution.x)[0])

    def stepped(self) -> None:
        """Scale the decoder rows back to their first norms."""
        self.trained.keep_norms()

    def _terms(self, ids: Tensor) -> "Terms":
        host = self._passes.host
        ids = ids.to(host.device)
        counted = counted_of(ids, host.special_ids)
        original = self._passes.original(ids)
        substitution = _Substitution(
            self.trained.sae, self._passes.site, counted, sized=self._weights.sparsity > 0
        )
        with_sae = self._read_out(original, counted, self._passes.final(original, substitution))
        without = None
        if self._both:
            without = self._read_out(original, counted, self._passes.final(original, None))
        assert substitution.coded is not None
        return Terms(with_sae, without, substitution.coded)

    def _read_out(self, original: Original, counted: Tensor, final: Tensor) -> Tensor:
        host = self._passes.host
        if self._loss is Loss.KL:
            return kl_mean(host, final[counted], original.final[counted])
        scored = counted.clone()
        scored[:, -1] = False
        return cross_entropy_mean(host, final[scored], original.ids.roll(-1, dims=1)[scored])

    def _update_threshold(self, values: Tensor) -> None:
        update = getattr(self.trained.sae, "update_topk_threshold", None)
        if update is not None:
            update(values.detach())


@dataclass(frozen=True)
class Terms:
    """The terms of one batch's loss.

    Attributes:
        with_sae: nats a token of the model with the SAE.
        without: the same of the changed model without it, in non-intrusive training.
        coded: the counted tokens, encoded and decoded.
    """

    with_sae: Float[Tensor, ""]
    without: Float[Tensor, ""] | None
    coded: Coded

    def total(self, sparsity: float, without_sae: float) -> Tensor:
        """Return the weighted sum."""
        total = self.with_sae
        if self.without is not None:
            total = total + without_sae * self.without
        return total if self.coded.size is None else total + sparsity * self.coded.size


class _Substitution:
    """Replaces activations by an SAE's reconstructions, and stores both."""

    def __init__(self, sae: Any, site: Site, counted: Tensor, *, sized: bool = False) -> None:
        self._sae, self._site, self._sized = sae, site, sized
        rows, positions = counted.nonzero(as_tuple=True)
        self._counted = rows, positions
        self.x: Tensor | None = None
        self.coded: Coded | None = None

    def __call__(self, activation: Tensor) -> Tensor:
        self.x = read_rows(self._site, activation, self._counted)
        self.coded = code(self._sae, self.x, sized=self._sized)
        changed = activation.clone()
        write_rows(self._site, changed, self.coded.x_hat, self._counted)
        return changed


def _warmed(weights: Weights, trained: TrainedSAE) -> float:
    if weights.warm_up_tokens == 0:
        return weights.sparsity
    return weights.sparsity * min(1.0, int(trained.seen) / weights.warm_up_tokens)


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
    """Return the sum of KL(P‖Q) over rows, and its gradient in Q's logits, q - p."""
    log_p, log_q = clean.log_softmax(dim=-1), logits.log_softmax(dim=-1)
    p = log_p.exp()
    value = (p * log_p.sub_(log_q)).sum(dtype=torch.float64)
    return value, log_q.exp_().sub_(p)


def _cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of -ln Q(target) over rows, and its gradient: q less the one-hot target."""
    log_q, columns = logits.log_softmax(dim=-1), targets[:, None]
    value = -log_q.gather(1, columns).sum(dtype=torch.float64)
    slope = log_q.exp_()
    return value, slope.scatter_add_(1, columns, slope.new_full(columns.shape, -1.0))


def _chunks(rows: int, host: Host) -> Iterator[slice]:
    on_cpu = host.device.type == "cpu"
    size = ROWS_AT_ONCE if on_cpu else max(1, LOGITS_AT_ONCE // host.vocab_size)
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))
