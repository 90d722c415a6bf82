"""Adversaries that are honest SAEs made worse, or tuned to sit just inside one limit."""

import torch
from torch import Tensor

from redteam.catalogue import adversary
from redteam.hollow import K
from redteam.modules import Coder, in_both_signs, top
from redteam.world import World


@adversary(caught_by="shrinkage.l2_ratio")
def shrunken_by_a_third(world: World) -> Coder:
    """An honest SAE whose output is 0.7 times as long."""
    base = world.coder()
    return base.changed(decoder=0.7 * base.W_dec, bias=0.7 * base.b_dec)


@adversary(passes_because="It is an honest SAE made worse by no more than the limit admits.")
def just_inside_l2_ratio(world: World) -> Coder:
    """An honest SAE shrunken until its length is just inside the limit of shrinkage."""
    return _scaled(world, 0.81)


@adversary(passes_because="It is an honest SAE made worse by no more than the limit admits.")
def just_too_long(world: World) -> Coder:
    """An honest SAE lengthened until it is just inside the upper limit of shrinkage."""
    return _scaled(world, 1.09)


@adversary(caught_by="advantage.fvu_ratio")
def noisy_decoder(world: World) -> Coder:
    """An honest SAE with noise in its decoder that makes its squared error four times as large."""
    return _noisy(world, 4.0)


@adversary(
    passes_because=(
        "Where PCA is poor and the SAE good there is room for noise below the limit; on the other "
        "model `advantage.kl_ratio` has none."
    )
)
def just_inside_fvu(world: World) -> Coder:
    """An honest SAE with noise in its decoder, as much as keeps its error below that of PCA."""
    base, fit = world.coder(), world.fit()
    pca = in_both_signs(fit.principal, fit.mean, int(world.sae(world.base).cfg.k))
    return _noisy(world, 0.85 * _squared(pca, fit.x) / _squared(base, fit.x))


@adversary(caught_by="advantage.kl_ratio")
def half_of_the_features(world: World) -> Coder:
    """An honest SAE of which each second feature was deleted."""
    base = world.coder()
    kept = (torch.arange(len(base.W_dec)) % 2 == 0).float()
    return base.changed(encoder=lambda x: base.encoder(x) * kept)


@adversary()
def strongest_features_alone(world: World) -> Coder:
    """An honest SAE of which the four strongest features of each token remain."""
    base = world.coder()
    return base.changed(encoder=lambda x: top(base.encoder(x), 4))


@adversary()
def all_features_alike(world: World) -> Coder:
    """An honest SAE that says which features are active, and not how much: each has its mean."""
    base, fit = world.coder(), world.fit()
    features = base.encoder(fit.x)
    mean = features.sum(dim=0) / (features > 0).sum(dim=0).clamp_min(1)
    return base.changed(encoder=lambda x: (base.encoder(x) > 0) * mean)


@adversary(passes_because="Rounding costs little: it stays within every limit.")
def rounded_features(world: World) -> Coder:
    """An honest SAE whose features are rounded to whole multiples of their mean."""
    base, fit = world.coder(), world.fit()
    features = base.encoder(fit.x)
    mean = (features.sum(dim=0) / (features > 0).sum(dim=0).clamp_min(1)).clamp_min(1e-6)
    return base.changed(encoder=lambda x: (base.encoder(x) / mean).round() * mean)


@adversary()
def half_components(world: World) -> Coder:
    """Half of an honest SAE's output and half of that of PCA."""
    base, fit = world.coder(), world.fit()
    pca = in_both_signs(fit.principal, fit.mean, K)

    def encode(x: Tensor) -> Tensor:
        return torch.cat([base.encoder(x), pca.encoder(x)], dim=1)

    return Coder(encode, torch.cat([base.W_dec, pca.W_dec]) / 2, (base.b_dec + pca.b_dec) / 2)


@adversary(caught_by="sparsity.dense_share")
def idle_features(world: World) -> Coder:
    """An honest SAE with 90 features a token that are active and have no effect."""
    base = world.coder()
    d = base.W_dec.shape[1]

    def encode(x: Tensor) -> Tensor:
        return torch.cat([base.encoder(x), torch.ones(len(x), 90)], dim=1)

    return Coder(encode, torch.cat([base.W_dec, torch.zeros(90, d)]), base.b_dec)


def _scaled(world: World, length: float) -> Coder:
    base, fit = world.coder(), world.fit()
    ratio = (base.decode(base.encoder(fit.x)).norm(dim=1) / fit.x.norm(dim=1)).mean()
    return base.changed(decoder=length / ratio * base.W_dec, bias=length / ratio * base.b_dec)


def _squared(sae: Coder, x: Tensor) -> float:
    return float((sae.decode(sae.encoder(x)) - x).square().sum())


def _noisy(world: World, times: float) -> Coder:
    """Multiply the squared error by noise in the decoder that is independent of it."""
    base, fit = world.coder(), world.fit()
    drawn = torch.randn(base.W_dec.shape, generator=torch.Generator().manual_seed(1))
    features = base.encoder(fit.x)
    own = _squared(base, fit.x)
    size = (max(times - 1, 0.0) * own / float((features @ drawn).square().sum())) ** 0.5
    return base.changed(decoder=base.W_dec + size * drawn)
