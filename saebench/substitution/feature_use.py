"""Dictionary health: which features carry the activation mass, and how many texts each fires in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from saebench.data.tokens import TokenSet
from saebench.measures.duplicates import duplicates
from saebench.measures.state import State, state, total
from saebench.measures.sums import TokenSums
from saebench.subjects.features import Watch
from saebench.subjects.sae import Reconstruction, Subject
from saebench.substitution.batches import Batch

DUPLICATED, ONE_SEQUENCE = "mass.duplicated", "mass.one_sequence"
ALONG, OUTPUT = "output.along_strongest", "output.energy"
FIRINGS = 1 << 27  # tokens times features that are looked at for duplicates: one byte each
NEVER, LAST = np.iinfo(np.int64).max, -1


def _lowest(values: Sequence[Any]) -> Any:
    return np.minimum.reduce(values)


def _highest(values: Sequence[Any]) -> Any:
    return np.maximum.reduce(values)


@dataclass(frozen=True)
class DictionaryUse(State):
    """How a run used each feature.

    Sequences that repeat each other are one text, which has the index of the first of them.

    Attributes:
        mass: Σ|f|·‖d_f‖, or Σ|f| without a decoder matrix.
        first: the lowest index of a text in which the feature fires; larger than any if in none.
        last: the highest one; -1 if in none.
        duplicated: features with a duplicate; None without a decoder matrix.
        strongest: the feature with most mass on the bank of corpus statistics; -1 where the
            share of one direction is undefined.
    """

    mass: Float64[np.ndarray, "features"] = state(total)
    first: Int[np.ndarray, "features"] = state(_lowest)
    last: Int[np.ndarray, "features"] = state(_highest)
    duplicated: Bool[np.ndarray, "features"] | None = state()
    strongest: int = state()

    def one_sequence(self, sequences: int, *, first: int = 0) -> Float64[np.ndarray, "sequences"]:
        """Return for each sequence the mass of the features that fire in its text alone.

        Args:
            sequences: of the run.
            first: the index of the first of them.
        """
        alone = (self.first == self.last) & (self.last >= 0)
        return np.bincount(self.first[alone] - first, self.mass[alone], minlength=sequences)


class DictionaryWatch:
    """Looks at an SAE's features on the bank, and then at their use in each batch.

    Args:
        subject: the SAE.
        bank: activations of the corpus statistics, from where the SAE reads.
        tokens: the measured sequences.
    """

    def __init__(self, subject: Subject, bank: Float[Tensor, "bank d"], tokens: TokenSet) -> None:
        self._tokens = tokens
        self._duplicated: Tensor | None = None
        self._offset = subject.constant_output(bank)
        self._direction: Tensor | None = None
        at_most = max(1, FIRINGS // max(1, subject.d_sae))
        fired, mass = subject.fired_on(bank[:: -(-len(bank) // at_most)])
        decoder = subject.decoder
        if decoder is not None:
            self._duplicated = duplicates(decoder, fired)
        self._strongest = int(mass.argmax()) if self._offset is not None and mass.any() else -1
        if decoder is not None and self._strongest >= 0:
            row = decoder[self._strongest].double()
            self._direction = row / row.norm()
        none = torch.zeros(0, dtype=torch.int64, device=bank.device)
        self._chosen = none if self._duplicated is None else self._duplicated.nonzero()[:, 0]
        self._mass = torch.zeros(len(mass), dtype=torch.float64, device=bank.device)
        self._first = torch.full((len(mass),), NEVER, dtype=torch.int64, device=bank.device)
        self._last = torch.full((len(mass),), LAST, dtype=torch.int64, device=bank.device)

    def of(self, batch: Batch) -> Watch:
        """Return what to record of a batch's features: the texts in which they fire."""
        texts, text_of = np.unique(self._texts(batch.rows), return_inverse=True)
        of_row = torch.from_numpy(text_of).to(batch.ids.device)
        return Watch(of_row[batch.at[0]], len(texts), self._chosen)

    def fold(self, sums: TokenSums, batch: Batch, output: Reconstruction) -> None:
        """Add a batch's use of the features."""
        usage = output.usage
        assert usage is not None
        texts = np.unique(self._texts(batch.rows))
        lowest = torch.from_numpy(np.append(NEVER, texts)).to(usage.lowest.device)
        highest = torch.from_numpy(np.append(LAST, texts)).to(usage.lowest.device)
        self._mass += usage.mass
        self._first = torch.minimum(self._first, lowest[usage.lowest])
        self._last = torch.maximum(self._last, highest[usage.highest])
        channels = {}
        if self._duplicated is not None:
            channels[DUPLICATED] = usage.chosen_mass
        if self._direction is not None and self._offset is not None:
            moved = output.x_hat.double() - self._offset
            channels[ALONG] = (moved @ self._direction).square()
            channels[OUTPUT] = moved.square().sum(dim=-1)
        for channel, values in channels.items():
            sums.add(channel, batch.spread(values), mask=batch.counted, rows=batch.rows)

    def use(self) -> DictionaryUse:
        """Return the use of the features in all batches so far."""
        return DictionaryUse(
            self._mass.cpu().numpy(),
            self._first.cpu().numpy(),
            self._last.cpu().numpy(),
            None if self._duplicated is None else self._duplicated.cpu().numpy(),
            self._strongest if self._direction is not None else -1,
        )

    def _texts(self, rows: slice) -> np.ndarray:
        if self._tokens.clusters is None:
            return np.arange(rows.start, rows.stop) + self._tokens.first
        return self._tokens.clusters[rows]
