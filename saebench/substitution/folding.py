"""From readouts of tokens to sums over sequences and positions."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saebench.measures.divergence import RowReadout
from saebench.measures.sums import TokenSums
from saebench.substitution.batches import Batch
from saebench.substitution.measurement import SCORED, TARGETS


@dataclass(frozen=True)
class Scored:
    """Where a batch's readouts belong: readouts come as rows, one for each counted token.

    Attributes:
        rows: the sequences.
        counted: the tokens at which KL is scored.
        has_target: those at which CE is.
    """

    rows: slice
    counted: Bool[Tensor, "batch pos"]
    has_target: Bool[Tensor, "batch pos"]

    def spread(self, values: Tensor) -> Float[Tensor, "batch pos"]:
        """Put the rows' values back at their places."""
        out = torch.zeros(self.counted.shape, dtype=values.dtype, device=values.device)
        out[self.counted] = values
        return out


def fold(
    sums: TokenSums,
    ce: Float[Tensor, "tokens"],
    readouts: Mapping[str, RowReadout],
    *,
    at: Scored | Batch,
) -> None:
    """Add one SAE's readouts of a batch to its sums.

    Args:
        sums: the channels of :class:`saebench.substitution.measurement.Measurement`.
        ce: the clean cross-entropy of each counted token.
        readouts: those of each intervention.
        at: where they belong.
    """
    sums.count(SCORED, at.counted, rows=at.rows)
    sums.count(TARGETS, at.has_target, rows=at.rows)
    sums.add("clean.ce", at.spread(ce), mask=at.has_target, rows=at.rows)
    for name, found in readouts.items():
        for channel, values, mask in (
            ("kl", found.kl, at.counted),
            ("tv", found.tv, at.counted),
            ("agrees", found.agrees.float(), at.counted),
            ("ce", found.ce, at.has_target),
        ):
            sums.add(f"{name}.{channel}", at.spread(values), mask=mask, rows=at.rows)
        sums.tally(f"{name}.kl", found.kl)
        if "sae" in readouts and name != "sae":
            exceeded = at.spread((readouts["sae"].kl > found.kl).float())
            sums.add(f"{name}.exceeded", exceeded, mask=at.counted, rows=at.rows)
