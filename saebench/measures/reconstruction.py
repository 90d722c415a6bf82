"""How an SAE's output compares with its input, one value for each token."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class TokenReconstruction:
    """Per-token quantities of x and x̂ whose sums fidelity and shrinkage are computed from."""

    squared_error: Float[Tensor, "*tokens"]
    squared_deviation: Float[Tensor, "*tokens"]
    squared_output: Float[Tensor, "*tokens"]
    inner_product: Float[Tensor, "*tokens"]
    norm_ratio: Float[Tensor, "*tokens"]
    cosine: Float[Tensor, "*tokens"]


def reconstruction(
    x: Float[Tensor, "*tokens d"], x_hat: Float[Tensor, "*tokens d"], *, centre: Float[Tensor, "d"]
) -> TokenReconstruction:
    """Return ‖x - x̂‖², ‖x - centre‖², ‖x̂‖², x·x̂, ‖x̂‖/‖x‖ and cos(x, x̂), in float64.

    Args:
        x: activations.
        x_hat: their reconstructions.
        centre: a vector near the mean of x; explained variance corrects for its distance from it.

    Source:
        docs/metrics.md (fidelity, shrinkage); arXiv 2404.16014, eq. 10.

    Example:
        >>> x = torch.tensor([[3.0, 4.0]])
        >>> reconstruction(x, 0.5 * x, centre=torch.zeros(2)).norm_ratio.item()
        0.5
    """
    x, x_hat = x.double(), x_hat.double()
    norm, norm_hat = x.norm(dim=-1), x_hat.norm(dim=-1)
    inner = torch.linalg.vecdot(x, x_hat)
    # The cosine of x̂ = 0 is undefined and counted as 0, as for an output that is unrelated to x.
    # x = 0 does not occur in a trained model; its NaN is an error later.
    cosine = torch.where(norm_hat > 0, inner / (norm * norm_hat).clamp_min(1e-300), 0.0)
    return TokenReconstruction(
        squared_error=(x - x_hat).square().sum(dim=-1),
        squared_deviation=(x - centre.double()).square().sum(dim=-1),
        squared_output=norm_hat.square(),
        inner_product=inner,
        norm_ratio=norm_hat / norm,
        cosine=cosine,
    )
