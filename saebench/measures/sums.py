"""Mergeable sums of per-token values, by sequence and by position, in float64."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saebench.measures.histogram import BINS, LogHistogram, binned
from saebench.measures.names import in_bin

BY_SEQUENCE, BY_POSITION, BY_TOKEN, HISTOGRAMS = (
    "by_sequence", "by_position", "by_token", "histograms"
)  # fmt: skip
KEPT_TOKENS = 2_000_000  # values stored token by token of one channel: 8 MB


@dataclass
class TokenSums:
    """For each named channel: its sum over every sequence and at every position.

    A sequence's sum does not depend on the batch that it was measured in, and means are divided
    once, at the end, over all tokens: merging the sums of a run's parts gives the run's sums.

    With ``edges``, each bin of positions from one edge to the next has sums by sequence too, under
    the name that :func:`saebench.measures.names.in_bin` gives.

    For the channels in ``keep`` the values themselves are stored too, in ``by_token``, for metrics
    that are not functions of sums: those of the run's first sequences, up to ``KEPT_TOKENS``
    tokens. ``first`` is the index in the run of the first sequence.

    Sums on a GPU stay there until :meth:`fetch`, so that adding needs no sync.

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
        """Start without any sums on a GPU."""
        self._on_gpu: dict[tuple[str, str], Tensor] = {}

    def add(
        self,
        channel: str,
        values: Float[Tensor, "batch pos"],
        *,
        mask: Bool[Tensor, "batch pos"],
        rows: slice,
    ) -> None:
        """Add a batch's values where the mask is True; ``rows`` are the sequences' indices."""
        masked = torch.where(mask, values.double(), 0.0)
        device = masked.device
        self._table(BY_SEQUENCE, channel, device)[rows] += masked.sum(dim=1)
        for i, (start, stop) in enumerate(pairwise(self.edges)):
            bin_sums = self._table(BY_SEQUENCE, in_bin(channel, i), device)
            bin_sums[rows] += masked[:, start:stop].sum(dim=1)
        self._table(BY_POSITION, channel, device).add_(masked.sum(dim=0))
        if channel in self.keep:
            by_token = self._table(BY_TOKEN, channel, device)[rows]
            by_token += masked[: len(by_token)].float()

    def add_by_label(
        self,
        names: Sequence[str],
        values: Float[Tensor, "tokens"],
        *,
        labels: Int[Tensor, "tokens"],
        row: Int[Tensor, "tokens"],
        rows: slice,
    ) -> None:
        """Add a batch's values to the sums by sequence of one channel for each label.

        Args:
            names: the channels, in the labels' order.
            values: of the batch's tokens.
            labels: of each token, from 0.
            row: the sequence of each token, counted from the batch's first.
            rows: the batch's sequences.
        """
        batch = rows.stop - rows.start
        table = torch.zeros(batch * len(names), dtype=torch.float64, device=values.device)
        table.index_add_(0, row * len(names) + labels, values.double())
        for name, column in zip(names, table.view(batch, len(names)).unbind(dim=1), strict=True):
            self._table(BY_SEQUENCE, name, values.device)[rows] += column

    @property
    def kept_sequences(self) -> int:
        """How many sequences have values in ``by_token``."""
        within_limit = max(1, KEPT_TOKENS // self.context) - self.first
        return max(0, min(self.sequences, within_limit))

    def count(self, channel: str, mask: Bool[Tensor, "batch pos"], *, rows: slice) -> None:
        """Add one wherever the mask is True."""
        self.add(channel, torch.ones_like(mask, dtype=torch.float64), mask=mask, rows=rows)

    def tally(self, channel: str, values: Float[Tensor, "tokens"]) -> None:
        """Count the values in the channel's histogram."""
        self._table(HISTOGRAMS, channel, values.device).add_(binned(values))

    def fetch(self) -> "TokenSums":
        """Move the sums on a GPU to host memory, and return these sums."""
        for (kind, channel), on_gpu in self._on_gpu.items():
            table = on_gpu.cpu()
            self._table(kind, channel, table.device).add_(table)
        self._on_gpu.clear()
        return self

    @classmethod
    def joined(cls, parts: "Sequence[TokenSums]") -> "TokenSums":
        """Return the merged sums of a run's consecutive parts, given in their order.

        A channel that a part lacks counts as zero there. The parts are not changed.

        Example:
            >>> parts = [TokenSums(sequences=n, context=3) for n in (1, 2)]
            >>> mask = torch.ones(2, 3, dtype=torch.bool)
            >>> parts[1].count("n", mask, rows=slice(0, 2))
            >>> TokenSums.joined(parts).by_sequence["n"].tolist()
            [0.0, 3.0, 3.0]
        """
        first = parts[0]
        n = sum(part.sequences for part in parts)
        run = cls(n, first.context, first.edges, first.keep, first.first)
        starts = np.cumsum([0, *(part.sequences for part in parts)])
        for start, part in zip(starts, parts, strict=False):
            rows = slice(start, start + part.sequences)
            for channel, values in part.by_sequence.items():
                run._on_host(BY_SEQUENCE, channel)[rows] = values
            for channel, values in part.by_position.items():
                run._on_host(BY_POSITION, channel)[:] += values
            for channel, values in part.by_token.items():
                run._on_host(BY_TOKEN, channel)[rows] = values
            for channel, histogram in part.histograms.items():
                run._histogram(channel).merge(histogram)
        return run

    def total(self, channel: str) -> float:
        """Return the channel's sum over all sequences."""
        return float(self.by_sequence[channel].sum())

    def curve(self, channel: str, *, per: str) -> list[float | None]:
        """Return the channel's mean at each position; None at positions without any count."""
        counts = self.by_position[per]
        with np.errstate(invalid="ignore", divide="ignore"):
            means = self.by_position[channel] / counts
        return [float(m) if n else None for m, n in zip(means, counts, strict=True)]

    def _table(self, kind: str, channel: str, device: torch.device) -> Tensor:
        """Return a channel's table on a device."""
        if device.type == "cpu":
            return torch.from_numpy(self._on_host(kind, channel))
        if (kind, channel) not in self._on_gpu:
            new = torch.from_numpy(self._zeros(kind))
            self._on_gpu[kind, channel] = torch.zeros_like(new, device=device)
        return self._on_gpu[kind, channel]

    def _on_host(self, kind: str, channel: str) -> np.ndarray:
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
