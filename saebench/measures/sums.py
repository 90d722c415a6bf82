"""Sums of per-token values that join: by sequence and by position, in float64."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saebench.measures.histogram import BINS, LogHistogram, binned
from saebench.measures.names import in_bin

BY_SEQUENCE, BY_POSITION, BY_TOKEN, HISTOGRAMS = (
    "by_sequence", "by_position", "by_token", "histograms"
)  # fmt: skip
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

    What is added on a GPU stays there until :meth:`fetch`, so that the GPU is never waited for.

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

    def __post_init__(self) -> None:
        """Have nothing on a GPU yet."""
        self._there: dict[tuple[str, str], Tensor] = {}

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
        device = kept.device
        self._table(BY_SEQUENCE, channel, device)[rows] += kept.sum(dim=1)
        for i, (start, stop) in enumerate(pairwise(self.edges)):
            in_this = self._table(BY_SEQUENCE, in_bin(channel, i), device)
            in_this[rows] += kept[:, start:stop].sum(dim=1)
        self._table(BY_POSITION, channel, device).add_(kept.sum(dim=0))
        if channel in self.keep:
            place = self._table(BY_TOKEN, channel, device)[rows]
            place += kept[: len(place)].float()

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
        self._table(HISTOGRAMS, channel, values.device).add_(binned(values))

    def fetch(self) -> "TokenSums":
        """Add what lies on a GPU to what is here, and return these sums."""
        for (kind, channel), there in self._there.items():
            found = there.cpu()
            self._table(kind, channel, found.device).add_(found)
        self._there.clear()
        return self

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
                whole._here(BY_SEQUENCE, channel)[rows] = values
            for channel, values in part.by_position.items():
                whole._here(BY_POSITION, channel)[:] += values
            for channel, values in part.by_token.items():
                whole._here(BY_TOKEN, channel)[rows] = values
            for channel, histogram in part.histograms.items():
                whole._histogram(channel).merge(histogram)
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

    def _table(self, kind: str, channel: str, device: torch.device) -> Tensor:
        """Return a channel's table, where its values are."""
        if device.type == "cpu":
            return torch.from_numpy(self._here(kind, channel))
        if (kind, channel) not in self._there:
            new = torch.from_numpy(self._zeros(kind))
            self._there[kind, channel] = torch.zeros_like(new, device=device)
        return self._there[kind, channel]

    def _here(self, kind: str, channel: str) -> np.ndarray:
        if kind == HISTOGRAMS:
            return self._histogram(channel).counts
        tables: dict[str, np.ndarray] = getattr(self, kind)
        if channel not in tables:
            tables[channel] = self._zeros(kind)
        return tables[channel]

    def _zeros(self, kind: str) -> np.ndarray:
        if kind == HISTOGRAMS:
            return np.zeros(BINS, dtype=np.int64)
        if kind == BY_TOKEN:
            return np.zeros((self.kept_sequences, self.context), dtype=np.float32)
        length = self.sequences if kind == BY_SEQUENCE else self.context
        return np.zeros(length, dtype=np.float64)

    def _histogram(self, channel: str) -> LogHistogram:
        return self.histograms.setdefault(channel, LogHistogram.empty())
