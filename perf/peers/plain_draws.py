"""Gurnee 2024's distribution at one token, the plain way: a full pass for each batch of draws."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from perf.figures import Figures, Runner
from perf.peers.full_passes import FullPasses


def plain_draws_runner(
    model: FullPasses,
    ids: Int[Tensor, "context"],
    sae: Any,
    *,
    position: int,
    draws: int,
    batch: int,
) -> Runner:
    """Return a call that gives the KL at one token under the SAE and under random errors.

    Args:
        model: the model, hooked at a block's input.
        ids: one sequence.
        sae: a SAELens SAE of that input.
        position: of the substituted token, where KL is read.
        draws: random errors of the SAE's size.
        batch: passes at once.
    """

    @torch.inference_mode()
    def run() -> Figures:
        generator = torch.Generator(ids.device).manual_seed(0)
        clean, states = model.clean(ids[None])
        x = states[0, position]
        x_hat = sae.decode(sae.encode(x[None]))
        noise = torch.randn(draws, len(x), generator=generator, device=ids.device)
        noise *= (x - x_hat).norm() / noise.norm(dim=-1, keepdim=True)
        found: list[Tensor] = []
        for changed in torch.cat([x_hat, x + noise]).split(batch):
            stacked = states.repeat(len(changed), 1, 1)
            stacked[:, position] = changed
            logits = model.changed(ids.expand(len(changed), -1), stacked)
            found.append(_kl(clean[0, position], logits[:, position]))
        return _figures(torch.cat(found).double())

    return run


def _kl(clean: Float[Tensor, "vocab"], logits: Float[Tensor, "rows vocab"]) -> Tensor:
    log_p = clean.log_softmax(dim=-1)
    return (log_p.exp() * (log_p - logits.log_softmax(dim=-1))).sum(dim=-1)


def _figures(kl: Float[Tensor, "one_and_draws"]) -> Figures:
    drawn = kl[1:]
    return Figures(
        {"kl.sae": float(kl[0]), "kl.eps_random": float(drawn.mean())},
        {"kl.eps_random": tuple(drawn.tolist())},
    )
