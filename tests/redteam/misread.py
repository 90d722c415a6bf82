"""Adversaries that are loaded in a wrong way, or that claim what is not true of them."""

import copy
from typing import Any

import torch
from torch import Tensor

from redteam.catalogue import Absent, adversary
from redteam.modules import Coder
from redteam.world import World


@adversary(caught_by="promise.l0_ratio")
def half_the_l0_promised(world: World) -> Any:
    """An honest SAE whose metadata say half as many active features as it has."""
    sae = copy.deepcopy(world.sae(world.base))
    sae.cfg.metadata.l0 = float(sae.cfg.k) / 2
    return sae


@adversary(caught_by="promise.l0_ratio")
def topk_read_as_relu(world: World) -> Any:
    """A TopK SAE that is read as a ReLU SAE: nothing keeps the k largest features."""
    from sae_lens import SAE

    sae = world.sae(world.base)
    config = {k: v for k, v in sae.cfg.to_dict().items() if "rescale" not in k and k != "k"}
    config["metadata"] = dict(config["metadata"]) | {"l0": float(sae.cfg.k)}
    read = SAE.from_dict(config | {"architecture": "standard"})
    read.load_state_dict(sae.state_dict())
    return read


@adversary(caught_by="promise.l0_ratio")
def threshold_forgotten(world: World) -> Any:
    """A JumpReLU SAE whose threshold is read as zero, with the l0 that it was trained for."""
    return _with_threshold(world, 0.0)


@adversary(caught_by="promise.l0_ratio")
def threshold_too_high(world: World) -> Any:
    """A JumpReLU SAE whose threshold is read as twice what it is."""
    return _with_threshold(world, 2.0)


@adversary(caught_by="shrinkage.l2_ratio")
def normalisation_forgotten(world: World) -> Coder:
    """An SAE of activations scaled to a mean norm of 1 that is given activations as they are."""
    base, fit = world.coder(), world.fit()
    factor = 1 / float(fit.x.norm(dim=1).mean())

    def encode(x: Tensor) -> Tensor:
        return base.encoder(x / factor) * factor

    return base.changed(encoder=encode, bias=base.b_dec * factor)


@adversary(caught_by="advantage.kl_ratio")
def mean_forgotten(world: World) -> Coder:
    """An SAE of activations less their mean that is given activations as they are."""
    base, fit = world.coder(), world.fit()
    mean = fit.mean
    return base.changed(encoder=lambda x: base.encoder(x + mean), bias=base.b_dec - mean)


@adversary()
def longer_context_claimed(world: World) -> Coder:
    """An SAE that claims to have been trained on four times the context that it was."""
    names = {"demo": "l0-standard", "stories": "l2-standard"}
    claims = {"demo": 256, "stories": 512}
    honest = world.coder(names[world.name])
    sae = honest.changed()
    layer = names[world.name][1]
    sae.cfg = {"hook_name": f"blocks.{layer}.hook_resid_pre", "context_size": claims[world.name]}
    return sae


def _with_threshold(world: World, times: float) -> Any:
    name = next((n for n in world.saes if n.endswith("jumprelu")), None)
    if name is None:
        raise Absent("it has no JumpReLU SAE")
    sae = copy.deepcopy(world.sae(name))
    x = world.fit().x
    with torch.no_grad():
        l0 = float((sae.encode(x) != 0).sum(dim=1).float().mean())
        sae.threshold.mul_(times)
    sae.cfg.metadata.l0 = sae.cfg.metadata.l0 or l0
    return sae
