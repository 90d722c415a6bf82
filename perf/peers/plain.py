"""The protocol of Gurnee 2024 written the plain way: one full pass for each intervention.

KL is the sum over log-softmaxes of whole logits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from perf.figures import Figures, Runner
from perf.peers.full_passes import FullPasses


@dataclass(frozen=True)
class Corpus:
    """What some interventions need to know of all tokens."""

    mean: Float[Tensor, "d"]
    factor: Float[Tensor, "d d"]
    basis: Float[Tensor, "d d"]
    x: Float[Tensor, "tokens d"]
    error: Float[Tensor, "tokens d"]


@dataclass(frozen=True)
class Substituted:
    """A batch's activations and reconstructions, with a source of noise."""

    x: Float[Tensor, "batch pos d"]
    x_hat: Float[Tensor, "batch pos d"]
    l0: Int[Tensor, "batch pos"]
    corpus: Corpus
    generator: torch.Generator

    def normal(self) -> Float[Tensor, "batch pos d"]:
        """Return standard normal vectors."""
        return torch.randn(self.x.shape, generator=self.generator, device=self.x.device)

    def drawn(self, table: Float[Tensor, "tokens d"]) -> Float[Tensor, "batch pos d"]:
        """Return a random row of a table for every token."""
        where = self.x.shape[:2]
        picked = torch.randint(len(table), where, generator=self.generator, device=self.x.device)
        return table[picked]

    def at_distance(self, direction: Float[Tensor, "batch pos d"]) -> Float[Tensor, "batch pos d"]:
        """Return x + ‖e - ē‖·direction/‖direction‖."""
        return self.x + _length(self.centred(self.x - self.x_hat)) * _unit(direction)

    def centred(self, error: Float[Tensor, "batch pos d"]) -> Float[Tensor, "batch pos d"]:
        """Return e - ē, less its mean over components, which GPT-2's norms subtract."""
        rest = error - self.corpus.error.mean(dim=0)
        return rest - rest.mean(dim=-1, keepdim=True)

    def components(self) -> Float[Tensor, "batch pos d"]:
        """Return the mean and as many principal components as features are active."""
        along = (self.x - self.corpus.mean) @ self.corpus.basis
        rank = along.abs().argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        kept = torch.where(rank < self.l0[..., None], along, 0.0)
        return self.corpus.mean + kept @ self.corpus.basis.T

    def at_angle(self) -> Float[Tensor, "batch pos d"]:
        """Return unit vectors at x̂'s angle from x, otherwise random."""
        along, noise = _unit(self.x), self.normal()
        cosine = (along * _unit(self.x_hat)).sum(dim=-1, keepdim=True)
        across = _unit(noise - (noise * along).sum(dim=-1, keepdim=True) * along)
        return cosine * along + (1 - cosine.square()).clamp_min(0).sqrt() * across


RULES: dict[str, Callable[[Substituted], Tensor]] = {
    "sae": lambda s: s.x_hat,
    "norm_corrected": lambda s: _unit(s.x_hat) * _length(s.x),
    "sae_norm": lambda s: _unit(s.x) * _length(s.x_hat),
    "eps_random": lambda s: s.at_distance(s.normal()),
    "eps_random_uncentred": lambda s: s.x + _length(s.x - s.x_hat) * _unit(s.normal()),
    "theta_random_x": lambda s: s.at_angle() * _length(s.x),
    "theta_random_sae": lambda s: s.at_angle() * _length(s.x_hat),
    "cov_random": lambda s: s.at_distance(s.normal() @ s.corpus.factor.T),
    "real_difference": lambda s: s.at_distance(s.drawn(s.corpus.x) - s.drawn(s.corpus.x)),
    "error_shuffled": lambda s: s.at_distance(s.centred(s.drawn(s.corpus.error))),
    "pca_matched": lambda s: s.components(),
    "zero": lambda s: torch.zeros_like(s.x),
    "mean": lambda s: s.corpus.mean.expand_as(s.x),
}
NOISY = frozenset(name for name in RULES if "random" in name) | {
    "real_difference",
    "error_shuffled",
}


def plain_runner(
    model: FullPasses,
    ids: Int[Tensor, "sequences context"],
    sae: Any,
    interventions: Sequence[str],
    *,
    batch: int,
    everywhere: bool = False,
) -> Runner:
    """Return a call that runs the whole model once for each intervention.

    Args:
        model: the model, hooked at a block's input.
        ids: the tokens.
        sae: a SAELens SAE of that input.
        interventions: names in ``RULES``.
        batch: sequences at once.
        everywhere: substitute at position 0 too, which is never scored.
    """
    first, device = 0 if everywhere else 1, sae.W_dec.device
    ids = ids.to(device)

    @torch.inference_mode()
    def run() -> Figures:
        generator = torch.Generator(device).manual_seed(0)
        corpus = _corpus(model, ids, sae, batch=batch)
        parts: dict[str, list[Tensor]] = {}
        for some in ids.split(batch):
            logits, x = model.clean(some)
            log_p = logits.log_softmax(dim=-1)
            p = log_p.exp()
            _keep(parts, "ce.clean", _cross_entropy(log_p, some))
            features = sae.encode(x)
            l0 = (features != 0).sum(dim=-1)
            tokens = Substituted(x, sae.decode(features), l0, corpus, generator)
            for name in interventions:
                changed = x.clone()
                changed[:, first:] = RULES[name](tokens)[:, first:]
                log_q = model.changed(some, changed).log_softmax(dim=-1)
                _keep(parts, f"kl.{name}", (p * (log_p - log_q)).sum(dim=-1)[:, 1:])
                _keep(parts, f"ce.{name}", _cross_entropy(log_q, some))
        return _averaged(parts)

    return run


def _keep(parts: dict[str, list[Tensor]], name: str, values: Tensor) -> None:
    parts.setdefault(name, []).append(values.mean(dim=1))


def _averaged(parts: dict[str, list[Tensor]]) -> Figures:
    """Return means over equally long sequences, and over all of them."""
    means = {name: torch.cat(chunks).double() for name, chunks in parts.items()}
    return Figures(
        {name: float(values.mean()) for name, values in means.items()},
        {name: tuple(values.tolist()) for name, values in means.items()},
    )


def _corpus(model: FullPasses, ids: Tensor, sae: Any, *, batch: int) -> Corpus:
    x = torch.cat([model.activations(some)[:, 1:].flatten(0, 1) for some in ids.split(batch)])
    covariance = x.double().T.cov(correction=0)
    d = len(covariance)
    ridge = 1e-6 * covariance.trace() / d * torch.eye(d, dtype=torch.float64, device=x.device)
    factor = torch.linalg.cholesky(covariance + ridge).float()
    basis = torch.linalg.eigh(covariance).eigenvectors.float()
    mean = x.double().mean(dim=0).float()
    return Corpus(mean, factor, basis, x, x - sae.decode(sae.encode(x)))


def _cross_entropy(log_q: Tensor, ids: Tensor) -> Float[Tensor, "batch scored"]:
    """Return -ln q of each next token, from position 1 on."""
    return -log_q[:, 1:-1].gather(-1, ids[:, 2:, None])[..., 0]


def _length(vectors: Tensor) -> Float[Tensor, "batch pos one"]:
    return vectors.norm(dim=-1, keepdim=True)


def _unit(vectors: Tensor) -> Tensor:
    return vectors / _length(vectors)
