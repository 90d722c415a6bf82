"""What the laboratory reads out of a pass, one value for each token."""

import torch


def hidden_shift(
    x: torch.Tensor,  # noqa: ARG001
    x_hat: torch.Tensor,  # noqa: ARG001
    clean: torch.Tensor,
    changed: torch.Tensor,
) -> torch.Tensor:
    return torch.linalg.vector_norm(changed - clean, dim=-1)


def one_number(*states: torch.Tensor) -> torch.Tensor:
    return states[0].sum()
