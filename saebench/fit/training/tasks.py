"""What the loop fits: an SAE on activations, or on the whole model's loss."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saebench.fit.stream import counted_of
from saebench.fit.training.gradients import Coded, code, cross_entropy_mean, kl_mean, sizes
from saebench.fit.training.objectives import Loss, Objective
from saebench.fit.training.sublayers import HalfLayers, Original, ResumedPasses
from saebench.fit.training.training_sae import TrainedSAE
from saebench.subjects.hooks import Site
from saebench.substitution.batches import read_rows, write_rows

CHECKED_ROWS = 16  # at once


@dataclass(frozen=True)
class Weights:
    """What the terms of a loss are multiplied by.

    Attributes:
        sparsity: the L1 coefficient.
        warm_up_tokens: over which it rises to that.
        without_sae: of the changed model without the SAE, in non-intrusive training.
        dead_after_tokens: without firing, after which SAELens' auxiliary loss of TopK is a
            feature's; the whole model's loss has none.
    """

    sparsity: float = 0.0
    warm_up_tokens: int = 0
    without_sae: float = 1.0
    dead_after_tokens: int = 1_000_000


class StandardTask:
    """SAELens' own loss on activations.

    Args:
        sae: SAELens' training form.
        held: activations that checks are made on.
        weights: of the terms.
    """

    def __init__(self, sae: Any, held: Float[Tensor, "tokens d"], *, weights: Weights) -> None:
        self.trained = TrainedSAE(sae)
        self._held, self._weights = held, weights

    @property
    def module(self) -> nn.Module:
        """The training SAE."""
        return self.trained

    def loss(self, batch: Float[Tensor, "tokens d"]) -> Tensor:
        """Return SAELens' training loss."""
        output = self._output(batch, _warmed(self._weights, self.trained))
        features = _dense(output.feature_acts.detach())
        self.trained.count(features.ne(0).any(dim=0), tokens=len(features))
        return output.loss

    def _output(self, batch: Tensor, coefficient: float) -> Any:
        from sae_lens.saes.sae import TrainStepInput

        return self.trained.sae.training_forward_pass(
            TrainStepInput(
                sae_in=batch,
                coefficients={"l1": coefficient},
                dead_neuron_mask=self.trained.silent_for(self._weights.dead_after_tokens),
                n_training_steps=0,
                is_logging_step=False,
            )
        )

    @torch.no_grad()
    def check(self) -> float:
        """Return squared error and penalty on the held activations."""
        sae, total = self.trained.sae, 0.0
        for x in self._held.split(4096):
            features, _ = sae.encode_with_hidden_pre(x)
            error = (sae.decode(features) - x).double().square().sum()
            total += float(error) + self._weights.sparsity * float(sizes(sae, features).sum())
        return total / len(self._held)

    @torch.no_grad()
    def held_features(self) -> Iterator[Float[Tensor, "tokens features"]]:
        """Give the features of the held activations, some at a time."""
        for x in self._held.split(4096):
            yield _dense(self.trained.sae.encode(x))

    def stepped(self) -> None:
        """Leave the weights as SAELens' training does."""


class WholeModelTask:
    """The whole model's loss with the SAE in it, and the penalty.

    Args:
        sae: SAELens' training form.
        passes: of the host, with its trained half-layers where there are any.
        objective: one that is of the whole model.
        loss: what the output is held against.
        held: rows that checks are made on.
        weights: of the terms.
        halves: the trained half-layers.
    """

    def __init__(
        self,
        sae: Any,
        passes: ResumedPasses,
        *,
        objective: Objective,
        loss: Loss,
        held: Int[Tensor, "rows context"],
        weights: Weights,
        halves: HalfLayers | None = None,
    ) -> None:
        self.trained = TrainedSAE(sae)
        self._module = nn.ModuleDict({"sae": self.trained})
        if halves is not None:
            self._module["halves"] = halves
        self._passes, self._loss, self._weights = passes, loss, weights
        self._both = objective is Objective.NON_INTRUSIVE
        self._held = held

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
        """Return the loss on the held rows."""
        total, rows = 0.0, 0
        for ids in self._held.split(CHECKED_ROWS):
            found = self._terms(ids).total(self._weights.sparsity, self._weights.without_sae)
            total += found.item() * len(ids)
            rows += len(ids)
        return total / rows

    @torch.no_grad()
    def held_features(self) -> Iterator[Float[Tensor, "tokens features"]]:
        """Give the features of the held rows, some at a time."""
        host, site = self._passes.host, self._passes.site
        for ids in self._held.split(CHECKED_ROWS):
            put = _Put(self.trained.sae, site, counted_of(ids, host.special_ids).to(host.device))
            original = self._passes.original(ids.to(host.device))
            self._passes.final(original, put)
            assert put.x is not None
            yield _dense(self.trained.sae.encode_with_hidden_pre(put.x)[0])

    def stepped(self) -> None:
        """Keep the decoder's norms."""
        self.trained.keep_norms()

    def _terms(self, ids: Tensor) -> "Terms":
        host = self._passes.host
        ids = ids.to(host.device)
        counted = counted_of(ids, host.special_ids)
        original = self._passes.original(ids)
        put = _Put(self.trained.sae, self._passes.site, counted, sized=self._weights.sparsity > 0)
        with_sae = self._read_out(original, counted, self._passes.final(original, put))
        without = None
        if self._both:
            without = self._read_out(original, counted, self._passes.final(original, None))
        assert put.coded is not None
        return Terms(with_sae, without, put.coded)

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
        with_sae: nats a token, the SAE in place.
        without: likewise of the changed model alone.
        coded: what the SAE made of the counted tokens.
    """

    with_sae: Float[Tensor, ""]
    without: Float[Tensor, ""] | None
    coded: Coded

    def total(self, sparsity: float, without_sae: float) -> Tensor:
        """Return the weighted sum."""
        found = self.with_sae
        if self.without is not None:
            found = found + without_sae * self.without
        return found if self.coded.size is None else found + sparsity * self.coded.size


class _Put:
    """Puts an SAE's reconstructions in, and keeps what it made and of what."""

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


def _dense(features: Tensor) -> Tensor:
    return features.to_dense() if features.is_sparse else features


def _warmed(weights: Weights, trained: TrainedSAE) -> float:
    if weights.warm_up_tokens == 0:
        return weights.sparsity
    return weights.sparsity * min(1.0, int(trained.seen) / weights.warm_up_tokens)
