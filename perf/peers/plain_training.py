"""A step on the whole model's loss, the plain way: whole logits, autograd all through."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from perf.figures import Figures, Runner


def plain_step_runner(
    model: Any, sae: Any, ids: Int[Tensor, "rows context"], layer: int, *, with_sae: bool
) -> Runner:
    """Return a call that runs the model clean, resumes it with the SAE's output, and goes back.

    Args:
        model: a plain GPT-2.
        sae: a SAELens SAE of a block's input.
        ids: token ids, BOS first.
        layer: the block.
        with_sae: go back through the SAE too; else to its output, which is computed before.
    """
    model.requires_grad_(False)

    def changed(x: Float[Tensor, "rows context d"]) -> Tensor:
        x_hat = sae.decode(sae.encode(x[:, 1:]))
        return torch.cat([x[:, :1], x_hat], dim=1)

    with torch.no_grad():
        outside = changed(_states(model, ids, layer)[0])

    def run() -> Figures:
        with torch.no_grad():
            x, clean = _states(model, ids, layer)
        start = changed(x) if with_sae else outside.clone().requires_grad_(True)
        hidden = start
        for block in model.transformer.h[layer:]:
            found = block(hidden)
            hidden = found[0] if isinstance(found, tuple) else found
        logits = model.lm_head(model.transformer.ln_f(hidden))[:, 1:]
        log_p, log_q = clean[:, 1:].log_softmax(dim=-1), logits.log_softmax(dim=-1)
        kl = (log_p.exp() * (log_p - log_q)).sum(dim=-1).mean()
        kl.backward()
        sae.zero_grad()
        return Figures({"kl.sae": kl.item()})

    return run


def _states(model: Any, ids: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    found = model(ids, output_hidden_states=True, use_cache=False)
    return found.hidden_states[layer], found.logits
