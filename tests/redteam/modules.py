"""SAE modules of which adversaries are made: an encoder as a function, and a linear decoder."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

Encoder = Callable[[Tensor], Tensor]


class Coder(nn.Module):
    """Any encoder with a linear decoder.

    Args:
        encoder: features ``[tokens, features]`` of activations ``[tokens, d]``.
        decoder: the features' directions ``[features, d]``.
        bias: what is added to every reconstruction; zeros by default.
    """

    def __init__(self, encoder: Encoder, decoder: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.W_dec = nn.Parameter(decoder.clone(), requires_grad=False)
        self.b_dec = nn.Parameter(
            torch.zeros(decoder.shape[1]) if bias is None else bias.clone(), requires_grad=False
        )
        self.cfg: dict[str, Any] = {}

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def decode(self, features: Tensor) -> Tensor:
        return features @ self.W_dec + self.b_dec

    def changed(
        self,
        *,
        encoder: Encoder | None = None,
        decoder: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> "Coder":
        """Return this SAE with another encoder, decoder or bias."""
        return Coder(
            encoder or self.encoder,
            self.W_dec if decoder is None else decoder,
            self.b_dec if bias is None else bias,
        )


def coder_of(sae: Any) -> Coder:
    """Return a SAELens SAE as its own encoder and decoder, which may be changed apart.

    ``decode`` is taken as the linear map that it is, so that every architecture is alike.
    """

    @torch.no_grad()
    def encode(x: Tensor) -> Tensor:
        return sae.encode(x).to_dense()

    with torch.no_grad():
        width = sae.W_dec.shape[0]
        bias = sae.decode(torch.zeros(1, width))[0]
        decoder = torch.cat([sae.decode(rows) - bias for rows in torch.eye(width).split(512)])
    return Coder(encode, decoder, bias)


def in_both_signs(directions: Float[Tensor, "n d"], mean: Tensor, keep: int | None = None) -> Coder:
    """Return the SAE with a feature for each sign of each direction.

    Args:
        directions: orthonormal rows.
        mean: what is subtracted before, and added after.
        keep: how many of the largest coefficients remain; all by default.
    """
    both = torch.cat([directions, -directions])

    def encode(x: Tensor) -> Tensor:
        return top(((x - mean) @ both.T).relu(), keep)

    return Coder(encode, both, mean)


def top(features: Float[Tensor, "tokens n"], keep: int | None) -> Tensor:
    """Return the features with all but each token's `keep` largest set to zero."""
    if keep is None:
        return features
    kept = features.topk(min(keep, features.shape[1]), dim=-1)
    return torch.zeros_like(features).scatter(-1, kept.indices, kept.values)


def one_of(places: Tensor, width: int, values: Tensor | float = 1.0) -> Tensor:
    """Return features of which one a token is active."""
    features = torch.zeros(len(places), width)
    features[torch.arange(len(places)), places] = values
    return features


def nearest(x: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """Return each activation's distance to the nearest row, and which it is."""
    mode = "donot_use_mm_for_euclid_dist"
    found = [torch.cdist(rows, among, compute_mode=mode).min(dim=1) for rows in x.split(256)]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def lookup(keys: Float[Tensor, "n d"], values: Float[Tensor, "n d"]) -> Coder:
    """Return the SAE with one active feature a token: the nearest key's value."""
    return Coder(lambda x: one_of(nearest(x, keys)[1], len(keys)), values)


def confused(base: Coder, known: Float[Tensor, "n d"], other: Float[Tensor, "n d"]) -> Coder:
    """Return the SAE that takes some activations for others: it recognises them exactly.

    Args:
        base: what it is at all other activations.
        known: the activations that it recognises.
        other: what it encodes in their place.
    """

    def encode(x: Tensor) -> Tensor:
        distance, place = nearest(x, known)
        hit = (distance < 1e-3 * x.norm(dim=1))[:, None]
        return base.encoder(torch.where(hit, other[place], x))

    return base.changed(encoder=encode)
