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
    ``signed``, the k largest in size and no relu. Transcoders leave b_dec out of the input; those
    from before sparsify had ``activation`` in its configuration do not.

    Args:
        tensors: the weights under sparsify's names.
        told: sparsify's cfg.json.

    Source:
        EleutherAI sparsify 1.3 (``SparseCoder``), and its version of November 2024 (``Sae``).
    """

    def __init__(self, tensors: Mapping[str, Tensor], told: Mapping[str, Any]) -> None:
        super().__init__()
        self.k: int = told["k"]
        self.signed = bool(told.get("signed"))
        self.groups = told.get("activation") == "groupmax"
        self.centres = not told.get("transcode") or "activation" not in told
        self.W_enc = nn.Parameter(tensors["encoder.weight"].float().T.contiguous())
        self.b_enc = nn.Parameter(tensors["encoder.bias"].float())
        self.W_dec = nn.Parameter(tensors["W_dec"].float())
        self.b_dec = nn.Parameter(tensors["b_dec"].float())
        if told.get("skip_connection"):
            self.W_skip = nn.Parameter(tensors["W_skip"].float())

    @classmethod
    def from_file(cls, weights: Path, told: Mapping[str, Any]) -> "SparseCoder":
        """Read a sae.safetensors."""
        return cls(load_file(weights), told)

    def encode(self, x: Float[Tensor, "tokens d"]) -> Float[Tensor, "tokens latents"]:
        """Return the latents, all but the selected ones 0; the skip connection is not in them."""
        found = (x - self.b_dec if self.centres else x) @ self.W_enc + self.b_enc
        found = found if self.signed else found.relu()
        kept = self._selected(found)
        return torch.zeros_like(found).scatter(-1, kept, found.gather(-1, kept))

    def _selected(self, found: Tensor) -> Tensor:
        if not self.groups:
            size = found.abs() if self.signed else found
            return size.topk(self.k, dim=-1).indices
        best = found.unflatten(-1, (self.k, -1)).argmax(dim=-1)
        starts = torch.arange(0, found.shape[-1], found.shape[-1] // self.k, device=found.device)
        return starts + best

    def decode(self, latents: Float[Tensor, "tokens latents"]) -> Float[Tensor, "tokens d"]:
        """Return the reconstruction, without the skip connection."""
        return latents @ self.W_dec + self.b_dec
