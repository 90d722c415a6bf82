"""Sums of per-token values that join: by sequence and by position, in float64."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saebench.measures.histogram import LogHistogram
from saebench.measures.names import in_bin

KEPT_TOKENS = 2_000_000  # of one channel: 8 MB


@dataclass
class TokenSums:
    """For each named channel: its sum over every sequence and at every position.

    A sequence's sum never depends on the batch it came in, and averages are divided once, at
    the end, over all tokens: the sums of a run's parts therefore join to those of the whole.

    With ``edges``, a channel's sums over the positions from one edge up to the next are kept
    too, by sequence, under :func:`saebench.measures.names.in_bin`'s name.

    Of the channels in ``keep`` the values themselves are kept too, in ``by_token``, for what no
    sum can tell: those of the run's first sequences, up to ``KEPT_TOKENS`` tokens. ``first`` is
    the place in the run of the first sequence here.

    Example:
        >>> sums = TokenSums(sequences=2, context=3)
        >>> mask = torch.ones(1, 3, dtype=torch.bool)
        >>> sums.add("kl", torch.tensor([[1.0, 2.0, 3.0]]), mask=mask, rows=slice(0, 1))
        >>> float(sums.by_sequence["kl"][0])
        6.0
    """

    sequences: int
    context: int
    edges: tuple[int, ...] = ()
    keep: tuple[str, ...] = ()
    first: int = 0
    by_token: dict[str, np.ndarray] = field(default_factory=dict)
    by_sequence: dict[str, np.ndarray] = field(default_factory=dict)
    by_position: dict[str, np.ndarray] = field(default_factory=dict)
    histograms: dict[str, LogHistogram] = field(default_factory=dict)

    def add(
        self,
        channel: str,
        values: Float[Tensor, "batch pos"],
        *,
        mask: Bool[Tensor, "batch pos"],
        rows: slice,
    ) -> None:
        """Add a batch's values where the mask holds; ``rows`` are the sequences' indices."""
        kept = torch.where(mask, values.double(), 0.0)
        by_sequence = self._table(self.by_sequence, channel, self.sequences)
        by_position = self._table(self.by_position, channel, self.context)
        by_sequence[rows] += kept.sum(dim=1).cpu().numpy()
        for i, (start, stop) in enumerate(pairwise(self.edges)):
            in_this = self._table(self.by_sequence, in_bin(channel, i), self.sequences)
            in_this[rows] += kept[:, start:stop].sum(dim=1).cpu().numpy()
        by_position += kept.sum(dim=0).cpu().numpy()
        if channel in self.keep:
            self._keep(channel, kept, rows)

    @property
    def kept_sequences(self) -> int:
        """How many sequences' values are kept of the channels in ``keep``."""
        kept = max(1, KEPT_TOKENS // self.context) - self.first
        return max(0, min(self.sequences, kept))

    def count(self, channel: str, mask: Bool[Tensor, "batch pos"], *, rows: slice) -> None:
        """Add one wherever the mask holds."""
        self.add(channel, torch.ones_like(mask, dtype=torch.float64), mask=mask, rows=rows)

    def tally(self, channel: str, values: Float[Tensor, "tokens"]) -> None:
        """Count the values in the channel's histogram."""
        self.histograms.setdefault(channel, LogHistogram.empty()).update(values)

    @classmethod
    def joined(cls, parts: "Sequence[TokenSums]") -> "TokenSums":
        """Return the sums of a run's consecutive parts, put together in their order.

        A channel that a part lacks is zero there. The parts are left as they are.

        Example:
            >>> parts = [TokenSums(sequences=n, context=3) for n in (1, 2)]
            >>> mask = torch.ones(2, 3, dtype=torch.bool)
            >>> parts[1].count("n", mask, rows=slice(0, 2))
            >>> TokenSums.joined(parts).by_sequence["n"].tolist()
            [0.0, 3.0, 3.0]
        """
        first = parts[0]
        n = sum(part.sequences for part in parts)
        whole = cls(n, first.context, first.edges, first.keep, first.first)
        starts = np.cumsum([0, *(part.sequences for part in parts)])
        for start, part in zip(starts, parts, strict=False):
            rows = slice(start, start + part.sequences)
            for channel, values in part.by_sequence.items():
                cls._table(whole.by_sequence, channel, n)[rows] = values
            for channel, values in part.by_position.items():
                cls._table(whole.by_position, channel, whole.context)[:] += values
            for channel, values in part.by_token.items():
                shape = (whole.kept_sequences, whole.context)
                table = whole.by_token.setdefault(channel, np.zeros(shape, dtype=np.float32))
                table[rows] = values
            for channel, histogram in part.histograms.items():
                whole.histograms.setdefault(channel, LogHistogram.empty()).merge(histogram)
        return whole

    def total(self, channel: str) -> float:
        """Return the sum over everything."""
        return float(self.by_sequence[channel].sum())

    def curve(self, channel: str, *, per: str) -> list[float | None]:
        """Return the channel's mean at each position; None where nothing was counted."""
        counts = self.by_position[per]
        with np.errstate(invalid="ignore", divide="ignore"):
            means = self.by_position[channel] / counts
        return [float(m) if n else None for m, n in zip(means, counts, strict=True)]

    def _keep(self, channel: str, values: Tensor, rows: slice) -> None:
        shape = (self.kept_sequences, self.context)
        table = self.by_token.setdefault(channel, np.zeros(shape, dtype=np.float32))
        place = table[rows]
        place += values[: len(place)].float().cpu().numpy()

    @staticmethod
    def _table(tables: dict[str, np.ndarray], channel: str, length: int) -> np.ndarray:
        return tables.setdefault(channel, np.zeros(length, dtype=np.float64))
