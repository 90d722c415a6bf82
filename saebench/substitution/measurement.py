"""Squared deviations from the run's own mean, gathered in one pass over it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saebench.data.tokens import TokenSet
from saebench.errors import MeasurementError, NonFiniteValue
from saebench.measures.state import State, concatenated, merged, one_path, state, total
from saebench.measures.sums import TokenSums
from saebench.records.run import CLUSTER


@dataclass(frozen=True)
class Moves(State):
    """What turns sums of ‖x - c‖² into those of ‖x - x̄‖², of some of a run's sequences.

    Attributes:
        sums: Σ(x - c), of each sequence or of all of them together.
        by_sequence: of each.
    """

    sums: Float[np.ndarray, "rows d"]
    by_sequence: bool

    @classmethod
    def merged(cls, parts: Sequence[Any]) -> Self:
        """Return those of a run's consecutive parts together."""
        tables = [part.sums for part in parts]
        if parts[0].by_sequence:
            return cls(np.concatenate(tables), by_sequence=True)
        return cls(total(tables), by_sequence=False)

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


SCORED = "n.scored"
TARGETS = "n.targets"


def with_clusters(sums: TokenSums, tokens: TokenSet) -> TokenSums:
    """Say in the sums which of the sequences repeat each other, where any do.

    Args:
        sums: of the tokens' sequences, or of their first.
        tokens: what was measured.
    """
    if tokens.clusters is not None:
        first = tokens.clusters[: sums.sequences]
        sums.by_sequence[CLUSTER] = first.astype(np.float64)
    return sums


def _by_channel(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Put each channel's rows one behind the other; a part may have none of them."""
    return {
        channel: np.concatenate([part[channel] for part in parts if channel in part])
        for channel in parts[0]
    }


@dataclass(frozen=True)
class TokenMeasurement(State):
    """Values token by token, of the run's first sequences.

    Attributes:
        values: float32 ``[sequences, positions]`` by channel; 0 where a token does not count.
        ids: the token ids.
        counted: which tokens count.
        text: gives a token's text by its id, for people.
    """

    values: Mapping[str, np.ndarray] = state(_by_channel)
    ids: np.ndarray = state(concatenated)
    counted: np.ndarray = state(concatenated)
    text: Callable[[int], str] = state(default=str, sent=False)


def _failures(parts: Sequence[Mapping[str, MeasurementError]]) -> dict[str, MeasurementError]:
    """Return the first error of each intervention."""
    return {name: error for part in reversed(parts) for name, error in part.items()}


@dataclass
class Measurement(State):
    """One SAE's sums over the run's tokens.

    Channels: ``n.scored`` and ``n.targets`` count tokens; ``clean.ce``; for each intervention
    ``NAME.kl``, ``.ce``, ``.tv``, ``.agrees`` and, for the baselines, ``.exceeded`` (tokens at
    which the SAE's KL is larger); and the SAE's own ``squared_error``, ``squared_deviation``,
    ``squared_output``, ``inner_product``, ``norm_ratio``, ``cosine``, ``norm``, ``l0``, ``l1``,
    ``l1_unit``. All are over the counted tokens, CE over those with a target.

    Attributes:
        sums: the channels.
        interventions: the names that were measured.
        fired: tokens at which each feature fired.
        failures: interventions that could not be made, and why.
        path: ``resumed``, or ``full`` where the model could not be resumed exactly.
        per_token: the values of channels that were asked for token by token.
        moves: what makes squared deviations from a fixed vector those from the run's own mean;
            None where that was done.
    """

    sums: TokenSums = state(TokenSums.joined)
    interventions: tuple[str, ...] = state()
    fired: np.ndarray = state(total)
    path: str = state(one_path)
    failures: dict[str, MeasurementError] = state(_failures, factory=dict)
    per_token: TokenMeasurement | None = state(merged, default=None)
    moves: Moves | None = state(merged, default=None)

    @classmethod
    def merged(cls, parts: Sequence[Any]) -> Self:
        """Return the parts together; an intervention that failed in one of them failed."""
        whole = super().merged(parts)
        whole.interventions = tuple(n for n in whole.interventions if n not in whole.failures)
        return whole

    def finished(self) -> Self:
        """Take the squared deviations from the run's own mean, now that all of it is known."""
        if self.moves is not None:
            table = self.sums.by_sequence
            table["squared_deviation"] += self.moves.moved(table[SCORED])
            self.moves = None
        return self

    def table(self) -> Mapping[str, np.ndarray]:
        """Return the per-sequence sums of every channel."""
        return self.sums.by_sequence

    def bins(self) -> tuple[tuple[int, int], ...]:
        """Return the positions of each bin, from the first to before the last."""
        return tuple(pairwise(self.sums.edges))

    def need(self, *interventions: str) -> None:
        """Make sure that the interventions were measured and gave numbers.

        Raises:
            MeasurementError: as it was found while measuring.
            NonFiniteValue: where a KL or CE came out NaN or infinite.
        """
        for name in interventions:
            if name in self.failures:
                raise self.failures[name]
            for channel in (f"{name}.kl", f"{name}.ce"):
                values = self.sums.by_sequence[channel]
                if not np.isfinite(values).all():
                    at = int(np.flatnonzero(~np.isfinite(values))[0])
                    raise NonFiniteValue(
                        f"{channel} is not finite in {int((~np.isfinite(values)).sum())} of "
                        f"{len(values)} sequences, first in sequence {at}: the model's logits "
                        "overflow under this substitution (try --sae-dtype float32)"
                    )


@dataclass
class PairMeasurement(State):
    """A pair of SAEs' sums over the run's tokens, the first SAE before the second.

    Channels: ``n.scored``; for ``clean``, ``sae`` (the first SAE substituted) and ``eps_random``
    (a random error of the same size there) the second SAE's ``squared_error``, ``l0`` and the
    activation's ``norm``; for the two substitutions ``kl_first``, ``kl_second`` (one place
    alone) and ``kl_together``.

    Attributes:
        sums: the channels.
        ids: the first SAE's and the second's.
        hooks: where they belong.
        path: ``resumed``, or ``full`` where the model could not be resumed exactly.
    """

    sums: TokenSums = state(TokenSums.joined)
    ids: tuple[str, str] = state()
    hooks: tuple[str, str] = state()
    path: str = state(one_path)

    def table(self) -> Mapping[str, np.ndarray]:
        """Return the per-sequence sums of every channel."""
        return self.sums.by_sequence


def _kept_others(parts: Sequence[Mapping[str, Measurement]]) -> dict[str, Measurement]:
    """Merge the others that every part has."""
    names = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: merged([part[name] for part in parts]) for name in names}


def _reasons(parts: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return the first reason of each."""
    return {name: why for part in reversed(parts) for name, why in part.items()}


@dataclass(frozen=True)
class WithPeers(State):
    """An SAE's measurement with others that were made on the same tokens.

    Attributes:
        own: the SAE's.
        others: the others', by name.
        left_out: why some of them could not be made, by name.
    """

    own: Any = state(merged)
    others: Mapping[str, Any] = state(_kept_others, factory=dict)
    left_out: Mapping[str, str] = state(_reasons, factory=dict)

    @property
    def path(self) -> str:
        """How the model was run."""
        return self.own.path

    def finished(self) -> Self:
        """Return it once all parts are in every measurement."""
        for each in (self.own, *self.others.values()):
            each.finished()
        return self
