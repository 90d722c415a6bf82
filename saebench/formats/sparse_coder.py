"""The forward pass of EleutherAI sparsify's SAEs and transcoders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn


class SparseCoder(nn.Module):
    """f = select_k(relu(W_enc·(x − b_dec) + b_enc)), x̂ = W_dec·f + b_dec (+ W_skip·x).

    ``select_k`` keeps the k largest (topk), the largest of each of k groups (groupmax), or, where
    ``signed``, the k largest in magnitude, without relu. Transcoders do not subtract b_dec from the
    input, except those from before sparsify had ``activation`` in its configuration.

    Args:
        tensors: the weights under sparsify's names.
        config: sparsify's cfg.json.

    Source:
        EleutherAI sparsify 1.3 (``SparseCoder``), and its version of November 2024 (``Sae``).
    """

    def __init__(self, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        super().__init__()
        self.k: int = config["k"]
        self.signed = bool(config.get("signed"))
        self.groups = config.get("activation") == "groupmax"
        self.centres = not config.get("transcode") or "activation" not in config
        self.W_enc = nn.Parameter(tensors["encoder.weight"].float().T.contiguous())
        self.b_enc = nn.Parameter(tensors["encoder.bias"].float())
        self.W_dec = nn.Parameter(tensors["W_dec"].float())
        self.b_dec = nn.Parameter(tensors["b_dec"].float())
        if config.get("skip_connection"):
            self.W_skip = nn.Parameter(tensors["W_skip"].float())

    @classmethod
    def from_file(cls, weights: Path, config: Mapping[str, Any]) -> "SparseCoder":
        """Load a sae.safetensors file."""
        return cls(load_file(weights), config)

    def encode(self, x: Float[Tensor, "tokens d"]) -> Float[Tensor, "tokens latents"]:
        """Return the latents, zero except for the selected ones; without the skip connection."""
        latents = (x - self.b_dec if self.centres else x) @ self.W_enc + self.b_enc
        latents = latents if self.signed else latents.relu()
        selected = self._selected(latents)
        return torch.zeros_like(latents).scatter(-1, selected, latents.gather(-1, selected))

    def _selected(self, latents: Tensor) -> Tensor:
        if not self.groups:
            size = latents.abs() if self.signed else latents
            return size.topk(self.k, dim=-1).indices
        best = latents.unflatten(-1, (self.k, -1)).argmax(dim=-1)
        starts = torch.arange(
            0, latents.shape[-1], latents.shape[-1] // self.k, device=latents.device
        )
        return starts + best

    def decode(self, latents: Float[Tensor, "tokens latents"]) -> Float[Tensor, "tokens d"]:
        """Return the reconstruction, without the skip connection."""
        return latents @ self.W_dec + self.b_dec
