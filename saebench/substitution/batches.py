"""The run's tokens, cut into batches: those that count, as rows."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saebench.data.tokens import TokenSet


@dataclass(frozen=True)
class Batch:
    """Some sequences, and where their counted tokens are.

    Attributes:
        rows: which sequences of those that are measured.
        ids: their token ids.
        counted: the tokens that are substituted, scored and enter statistics.
        has_target: the tokens at which cross-entropy is scored.
        at: row and position, here, of each counted token.
        sequence: each counted token's sequence index in the run.
        position: its position there.
        targets: the token after it.
        alike: the sequences differ in nothing but their counted tokens, which are all those
            from one position on: what is put at each of them gives the same in every sequence.
    """

    rows: slice
    ids: Int[Tensor, "batch pos"]
    counted: Bool[Tensor, "batch pos"]
    has_target: Bool[Tensor, "batch pos"]
    at: tuple[Int[Tensor, "tokens"], Int[Tensor, "tokens"]]
    sequence: Int[Tensor, "tokens"]
    position: Int[Tensor, "tokens"]
    targets: Int[Tensor, "tokens"]
    alike: bool

    @property
    def counts(self) -> bool:
        """True where any of its tokens counts."""
        return len(self.targets) > 0

    def by_position(self) -> "Batch":
        """Return sequences that are alike with the counted tokens in the order of positions."""
        order = torch.arange(len(self.targets), device=self.ids.device)
        order = order.view(len(self.ids), -1).T.flatten()
        row, position = self.at
        return replace(
            self,
            at=(row[order], position[order]),
            sequence=self.sequence[order],
            position=self.position[order],
            targets=self.targets[order],
        )

    def spread(self, values: Float[Tensor, "tokens"]) -> Float[Tensor, "batch pos"]:
        """Put the rows' values back at their places."""
        out = torch.zeros(self.counted.shape, dtype=values.dtype, device=values.device)
        out[self.at] = values
        return out


def make_batch(tokens: TokenSet, rows: slice, *, device: torch.device) -> Batch:
    """Return some sequences of the run, on a device.

    Places are found before anything is moved, so that a GPU is never waited for.
    """
    ids, counted = tokens.ids[rows], tokens.counted[rows]
    alike = _are_alike(ids, counted)
    row, position = counted.nonzero(as_tuple=True)
    targets = ids.roll(-1, dims=1)[row, position]
    parts = (ids, counted, tokens.has_target[rows], row, position, targets)
    there = [to_device(part, device) for part in parts]
    ids, counted, has_target, row, position, targets = there
    at = (row, position)
    sequence = row + rows.start + tokens.first
    return Batch(rows, ids, counted, has_target, at, sequence, position, targets, alike)


def to_device(part: Tensor, device: torch.device) -> Tensor:
    """Put a part of a batch where the model is, without waiting for what a GPU has to do."""
    if device.type != "cuda":
        return part.to(device)
    return part.pin_memory().to(device, non_blocking=True)


def _are_alike(ids: Int[Tensor, "batch pos"], counted: Bool[Tensor, "batch pos"]) -> bool:
    before = int((~counted[0]).sum())
    rest_counts = counted[:, before:].all() and not counted[:, :before].any()
    return bool(rest_counts and (ids[:, :before] == ids[:1, :before]).all())


def cut(sequences: int, size: int) -> Iterator[slice]:
    """Cut sequences into ranges of a size; the last may be shorter."""
    for start in range(0, sequences, size):
        yield slice(start, min(start + size, sequences))


def halves(rows: slice) -> Iterator[slice]:
    """Give the two halves of a range of two sequences or more."""
    middle = (rows.start + rows.stop) // 2
    yield slice(rows.start, middle)
    yield slice(middle, rows.stop)
