"""Control SAEs, derived from a trained SAE at run time: SAEs that a gate must fail.

``identity`` is the positive control: it must pass.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saebench.errors import SubjectError, nearest


class Control(nn.Module):
    """An SAE derived from another one, with its own encode and decode."""

    def __init__(
        self, base: Any, encode: Callable[[Tensor], Tensor], decode: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.base = base
        self._encode = encode
        self._decode = decode

    def encode(self, x: Float[Tensor, "tokens d"]) -> Float[Tensor, "tokens features"]:
        """Return the features."""
        return self._encode(x)

    def decode(self, features: Float[Tensor, "tokens features"]) -> Float[Tensor, "tokens d"]:
        """Return the reconstruction."""
        return self._decode(features)


def _identity(sae: Any, _: torch.Generator, __: float | None) -> nn.Module:
    return Control(sae, lambda x: x, lambda f: f)


def _permuted_decoder(sae: Any, generator: torch.Generator, _: float | None) -> nn.Module:
    """Return the SAE with its decoder's rows permuted: as sparse, but without meaning."""
    _decoder(sae, "permuted_decoder")
    sae = copy.deepcopy(sae)
    order = torch.randperm(len(sae.W_dec), generator=generator)
    sae.W_dec.data = sae.W_dec.data[order]
    return sae


def _decoder(sae: Any, control: str) -> Float[Tensor, "features d"]:
    weight = getattr(sae, "W_dec", None)
    if not isinstance(weight, Tensor):
        raise SubjectError(f"{control}: {type(sae).__name__} has no decoder matrix W_dec")
    return weight


def _random_directions(
    sae: Any, generator: torch.Generator, control: str
) -> Float[Tensor, "features d"]:
    shape = _decoder(sae, control).shape
    drawn = torch.randn(shape, generator=generator, dtype=torch.float32)
    return drawn / drawn.norm(dim=-1, keepdim=True)


def _random_init(sae: Any, generator: torch.Generator, _: float | None) -> nn.Module:
    """Return an SAE that was never trained: random directions, tied, without biases."""
    directions = _random_directions(sae, generator, "random_init")

    def encode(x: Tensor) -> Tensor:
        return (x @ directions.T.to(x)).relu()

    return Control(sae, encode, lambda f: f @ directions.to(f))


def _l0_matched_random(sae: Any, generator: torch.Generator, l0: float | None) -> nn.Module:
    """Return random directions, as many of which fire as the trained SAE has active features."""
    directions = _random_directions(sae, generator, "l0_matched_random")
    active = _metadata_l0(sae) if l0 is None else l0
    if not isinstance(active, int | float) or not 0 < active < float("inf"):
        lack = "no active feature" if l0 is not None else "no l0 in its metadata"
        raise SubjectError(f"l0_matched_random: the SAE has {lack} to match")
    k = min(max(1, round(active)), len(directions))
    bias = getattr(sae, "b_dec", None)
    zeros = torch.zeros(directions.shape[-1], dtype=torch.float32)
    centre = bias.detach() if isinstance(bias, Tensor) else zeros

    def encode(x: Tensor) -> Tensor:
        features = (x - centre.to(x)) @ directions.T.to(x)
        top = features.topk(k, dim=-1)
        return torch.zeros_like(features).scatter(-1, top.indices, top.values.relu())

    return Control(sae, encode, lambda f: f @ directions.to(f) + centre.to(f))


def _metadata_l0(sae: Any) -> Any:
    return getattr(getattr(getattr(sae, "cfg", None), "metadata", None), "l0", None)


def _scaled(sae: Any, _: torch.Generator, __: float | None) -> nn.Module:
    return Control(sae, sae.encode, lambda f: 0.7 * sae.decode(f))


CONTROLS: dict[str, Callable[[Any, torch.Generator, float | None], nn.Module]] = {
    "identity": _identity,
    "permuted_decoder": _permuted_decoder,
    "random_init": _random_init,
    "l0_matched_random": _l0_matched_random,
    "scaled": _scaled,
}


def make_control(name: str, sae: Any, *, seed: int = 0, l0: float | None = None) -> nn.Module:
    """Return a control derived from a trained SAE, which is not changed.

    Args:
        name: ``identity``, ``permuted_decoder``, ``random_init``, ``l0_matched_random`` or
            ``scaled`` (by 0.7).
        sae: the trained SAE.
        seed: of the random ones.
        l0: the trained SAE's active features for each token; by default its metadata's.

    Raises:
        SubjectError: for an unknown name, or an SAE without what the control needs.

    Source:
        docs/metrics.md (controls).
    """
    if name not in CONTROLS:
        raise SubjectError(f"unknown control {name!r}{nearest(name, CONTROLS)}")
    return CONTROLS[name](sae, torch.Generator().manual_seed(seed), l0)
