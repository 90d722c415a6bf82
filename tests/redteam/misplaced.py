"""Adversaries with weights that belong elsewhere: another layer, checkpoint, model or order."""

import copy

import torch
from torch import Tensor

from redteam.catalogue import adversary
from redteam.fitting import least_squares, train_topk
from redteam.modules import Coder, one_of, top
from redteam.world import LAYER, World


@adversary(caught_by="kl_gap.ratio[cov_random]")
def next_layers_weights(world: World) -> Coder:
    """The SAE of the next layer, at this one's hook."""
    return world.coder("l3-standard")


@adversary(caught_by="sparsity.dense_share")
def previous_layers_weights(world: World) -> Coder:
    """The SAE of the layer before, at this one's hook."""
    return world.coder("l1-standard")


@adversary(caught_by="sparsity.dense_share")
def previous_layers_encoder(world: World) -> Coder:
    """The encoder of the layer before, with a decoder fitted to this layer by least squares."""
    return _refitted(world, world.coder("l1-standard"))


@adversary()
def next_layers_encoder(world: World) -> Coder:
    """The next layer's encoder, with a decoder fitted to this layer by least squares."""
    return _refitted(world, world.coder("l3-standard"))


@adversary(caught_by="advantage.kl_ratio")
def another_checkpoint(world: World) -> Coder:
    """A TopK SAE of the same model before its last steps, which weights with noise stand for."""
    return _trained_on_changed(world, share=0.5)


@adversary(caught_by="advantage.kl_ratio")
def another_model(world: World) -> Coder:
    """A TopK SAE of a model of the same shape with random weights."""
    return _trained_on_changed(world, share=None)


@adversary(caught_by="advantage.kl_ratio")
def permuted_decoder(world: World) -> Coder:
    """An honest encoder whose features have each other's directions."""
    base = world.coder()
    order = torch.randperm(len(base.W_dec), generator=torch.Generator().manual_seed(1))
    return base.changed(decoder=base.W_dec[order])


@adversary(caught_by="advantage.kl_ratio")
def rotated_basis(world: World) -> Coder:
    """An honest SAE in the coordinates of a model whose neurons are in another order."""
    base = world.coder()
    d = base.W_dec.shape[1]
    order = torch.randperm(d, generator=torch.Generator().manual_seed(2))
    return Coder(lambda x: base.encoder(x[:, order]), base.W_dec, base.b_dec)


@adversary(caught_by="advantage.kl_ratio")
def random_directions(world: World) -> Coder:
    """An honest encoder with random unit vectors as its decoder."""
    base = world.coder()
    return base.changed(decoder=base.W_dec.norm(dim=1, keepdim=True) * _unit(base.W_dec))


@adversary(caught_by="advantage.kl_ratio")
def random_encoder(world: World) -> Coder:
    """A TopK of random directions, with a decoder fitted by least squares."""
    fit, k = world.fit(), _k(world)
    random = _unit(torch.empty(512, fit.x.shape[1]))
    encoder = lambda x: top(((x - fit.mean) @ random.T).relu(), k)  # noqa: E731
    return Coder(encoder, *least_squares(encoder(fit.x), fit.x))


@adversary(caught_by="fidelity.context_recovered")
def table_of_tokens(world: World) -> Coder:
    """A table with one entry for each token, its mean activation; nothing of the context."""
    fit = world.fit()
    kinds, place = fit.ids.unique(return_inverse=True)
    sums = torch.zeros(len(kinds), fit.x.shape[1]).index_add(0, place, fit.x)
    means = sums / place.bincount()[:, None]

    def encode(x: Tensor) -> Tensor:
        return one_of(torch.cdist(x, means).argmin(dim=1), len(means))

    return Coder(encode, means)


def _refitted(world: World, other: Coder) -> Coder:
    fit = world.fit()
    decoder, bias = least_squares(other.encoder(fit.x), fit.x)
    return other.changed(decoder=decoder, bias=bias)


def _trained_on_changed(world: World, *, share: float | None) -> Coder:
    """Train on a model whose weights are random, or have noise of a share of their spread."""
    model = copy.deepcopy(world.model)
    generator = torch.Generator().manual_seed(3)
    for weight in model.parameters():
        if weight.dim() > 1:
            noise = torch.randn(weight.shape, generator=generator) * weight.std()
            weight.copy_(noise if share is None else weight + share * noise)
    x = world.activations(world.fitted, LAYER, model=model).x
    return train_topk(x, k=_k(world))


def _k(world: World) -> int:
    return int(world.sae(world.base).cfg.k)


def _unit(like: Tensor) -> Tensor:
    drawn = torch.randn(like.shape, generator=torch.Generator().manual_seed(4))
    return drawn / drawn.norm(dim=1, keepdim=True)
