"""Squared deviations from the run's own mean, gathered in one pass over it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Moves:
    """What turns sums of ‖x - c‖² into those of ‖x - x̄‖², of some of a run's sequences.

    Attributes:
        sums: Σ(x - c), of each sequence or of all of them together.
        by_sequence: of each.
    """

    sums: Float[np.ndarray, "rows d"]
    by_sequence: bool

    @staticmethod
    def joined(parts: "Sequence[Moves]") -> "Moves":
        """Return those of a run's consecutive parts together."""
        tables = [part.sums for part in parts]
        if parts[0].by_sequence:
            return Moves(np.concatenate(tables), by_sequence=True)
        return Moves(sum(tables[1:], tables[0]), by_sequence=False)

    def moved(self, counts: Float[np.ndarray, "sequences"]) -> Float[np.ndarray, "sequences"]:
        """Return what each sequence's sum of squared deviations changes by.

        Args:
            counts: tokens of each sequence.
        """
        offset = self.sums.sum(axis=0) / counts.sum()
        if self.by_sequence:
            return counts * np.square(offset).sum() - 2 * self.sums @ offset
        return -counts * np.square(offset).sum()


class Spread:
    """Turns sums of ‖x - c‖², c fixed beforehand, into sums of ‖x - x̄‖², x̄ the run's mean.

    With the sums a_s = Σ(x - c) of every sequence the move is exact. For many sequences these
    would be large, and the centre is then the mean of hundreds of sequences: only their total is
    kept, and what moves is shared out over the sequences by their tokens.

    Args:
        sequences: of the run.
        centre: a vector near the mean, the same whatever the batches.
        by_sequence: keep every sequence's sum; not those of many, which would be large.
    """

    def __init__(self, sequences: int, centre: Float[Tensor, "d"], *, by_sequence: bool) -> None:
        self.centre = centre
        self._by_sequence = by_sequence
        rows = sequences if by_sequence else 1
        self._sums = torch.zeros(rows, len(centre), dtype=torch.float64, device=centre.device)

    def update(self, x: Float[Tensor, "tokens d"], sequence: Int[Tensor, "tokens"]) -> None:
        """Add tokens."""
        deviation = x.double() - self.centre.double()
        if self._by_sequence:
            self._sums.index_add_(0, sequence, deviation)
        else:
            self._sums += deviation.sum(dim=0)

    def moves(self) -> Moves:
        """Return the sums, for when all of the run's are known."""
        return Moves(self._sums.cpu().numpy(), self._by_sequence)
