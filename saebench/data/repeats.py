"""Which sequences say the same: the units of resampling are clusters of these."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor


def repeats(ids: Int[Tensor, "sequences tokens"]) -> Int[np.ndarray, "sequences"] | None:
    """Return for each sequence the first one with the same tokens; None where all differ.

    The first ones' places do not depend on what comes later: the clusters of a run's first
    sequences are the first of the run's clusters.

    Args:
        ids: token ids, and whatever else tells sequences apart.

    Example:
        >>> repeats(torch.tensor([[5, 6], [7, 8], [5, 6]]))
        array([0, 1, 0])
    """
    _, kind = ids.unique(dim=0, return_inverse=True)
    places = torch.arange(len(ids))
    first = torch.full_like(places, len(ids)).scatter_reduce(0, kind, places, "amin")
    found = first[kind]
    return None if torch.equal(found, places) else found.numpy()
