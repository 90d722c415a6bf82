"""Duplicates in a dictionary: features of one direction that fire on the same tokens."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

COSINE = 0.95  # above it two decoder rows are one direction
SAME_TOKENS = 0.5  # of a feature's firings, at which the other one has to fire too
TILE = 1024  # features whose cosines with all others are in memory at once


def duplicates(
    directions: Float[Tensor, "features d"],
    fired: Bool[Tensor, "tokens features"],
    *,
    tile: int = TILE,
) -> Bool[Tensor, "features"]:
    """Return which features have another of their direction that fires on half of their tokens.

    Two features have one direction where the cosine of their decoder rows is above 0.95. A feature
    that fires on none of the tokens has no duplicate.

    Args:
        directions: decoder rows of any length.
        fired: which features fire at each token.
        tile: features at once; memory grows with ``tile`` times the number of features that fire.

    Example:
        >>> directions = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0]])
        >>> fired = torch.tensor([[True, True, True], [False, True, True], [False, True, False]])
        >>> duplicates(directions, fired).tolist()
        [True, False, False]
    """
    used = fired.any(dim=0).nonzero()[:, 0]
    unit = torch.nn.functional.normalize(directions[used].float(), dim=-1)
    found = torch.zeros(fired.shape[1], dtype=torch.bool, device=fired.device)
    for start in range(0, len(used), tile):
        alike = unit[start : start + tile] @ unit.T > COSINE
        own = torch.arange(len(alike), device=alike.device)
        alike[own, own + start] = False
        rows, others = alike.any(dim=1), alike.any(dim=0)
        if rows.any():
            together = _together(fired, used[start : start + tile][rows], used[others])
            needed = SAME_TOKENS * fired[:, used[start : start + tile][rows]].sum(dim=0)
            repeated = (together >= needed[:, None]) & alike[rows][:, others]
            found[used[start : start + tile][rows]] = repeated.any(dim=1)
    return found


def _together(
    fired: Bool[Tensor, "tokens features"], rows: Tensor, others: Tensor
) -> Float[Tensor, "rows others"]:
    """Return at how many tokens each two features fire together; exact below 2²⁴ tokens."""
    return fired[:, rows].T.float() @ fired[:, others].float()
