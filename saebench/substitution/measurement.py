"""Measurements of SAEs and of pairs as mergeable sums, and squared deviations in one pass."""

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
from saebench.measures.state import State, concatenated, first, merged, one_path, state, total
from saebench.measures.sums import TokenSums
from saebench.records.metric import CLUSTER
from saebench.substitution.feature_use import ONE_SEQUENCE, DictionaryUse
from saebench.substitution.pursuit import PursuitErrors
from saebench.substitution.token_strata import TokenStrata


@dataclass(frozen=True)
class Moves(State):
    """Corrections that turn sums of ‖x - c‖² into sums of ‖x - x̄‖², for some of a run's sequences.

    Attributes:
        sums: Σ(x - c), one row for each sequence or one for all of them together.
        by_sequence: True if there is a row for each sequence.
    """

    sums: Float[np.ndarray, "rows d"]
    by_sequence: bool

    @classmethod
    def merged(cls, parts: Sequence[Any]) -> Self:
        """Return the corrections of a run's consecutive parts together."""
        tables = [part.sums for part in parts]
        if parts[0].by_sequence:
            return cls(np.concatenate(tables), by_sequence=True)
        return cls(total(tables), by_sequence=False)

    def moved(self, counts: Float[np.ndarray, "sequences"]) -> Float[np.ndarray, "sequences"]:
        """Return the correction of each sequence's sum of squared deviations.

        Args:
            counts: tokens of each sequence.
        """
        offset = self.sums.sum(axis=0) / counts.sum()
        if self.by_sequence:
            return counts * np.square(offset).sum() - 2 * self.sums @ offset
        return -counts * np.square(offset).sum()


class Spread:
    """Deviations ‖x - c‖² from a fixed centre c, corrected to ‖x - x̄‖², x̄ the run's mean.

    With the sums a_s = Σ(x - c) of every sequence the correction is exact. For many sequences
    these would need much memory; the centre is then the mean of hundreds of sequences, only the
    total is stored, and the correction is distributed over the sequences by their token counts.

    Args:
        sequences: how many the run has.
        centre: a vector near the mean, the same for all batches.
        by_sequence: store a sum for every sequence; too large for a run of many.
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
        """Return the corrections, to be applied when all parts of the run are merged."""
        return Moves(self._sums.cpu().numpy(), self._by_sequence)


SCORED = "n.scored"
TARGETS = "n.targets"


def with_clusters(sums: TokenSums, tokens: TokenSet) -> TokenSums:
    """Add to the sums the cluster of each sequence, if any sequences repeat each other.

    Args:
        sums: of all sequences, or of the first ones.
        tokens: the measured sequences.
    """
    if tokens.clusters is not None:
        first = tokens.clusters[: sums.sequences]
        sums.by_sequence[CLUSTER] = first.astype(np.float64)
    return sums


def _by_channel(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Concatenate each channel's rows; a part may lack a channel."""
    return {
        channel: np.concatenate([part[channel] for part in parts if channel in part])
        for channel in parts[0]
    }


@dataclass(frozen=True)
class TokenMeasurement(State):
    """Values token by token of the run's first sequences.

    Attributes:
        values: float32 ``[sequences, positions]`` by channel; 0 for tokens that do not count.
        ids: the token ids.
        counted: which tokens count.
        text: returns a token's text by its id, for people.
    """

    values: Mapping[str, np.ndarray] = state(_by_channel)
    ids: np.ndarray = state(concatenated)
    counted: np.ndarray = state(concatenated)
    text: Callable[[int], str] = state(default=str, sent=False)


def _failures(parts: Sequence[Mapping[str, MeasurementError]]) -> dict[str, MeasurementError]:
    """Return the first error of each intervention."""
    return {name: error for part in reversed(parts) for name, error in part.items()}


def silence(count: int, of: str) -> MeasurementError:
    """Return the error about an SAE of which no feature fires.

    Args:
        count: tokens or prompts that were looked at.
        of: which of the two.

    Example:
        >>> str(silence(96, "tokens")).partition(",")[0]
        'no feature fires at any of 96 tokens'
    """
    return MeasurementError(
        f"no feature fires at any of {count} {of}, so that the output is made without the "
        "dictionary; are these the weights, threshold and hook that belong together?"
    )


@dataclass
class Measurement(State):
    """One SAE's sums over the run's tokens.

    Channels: ``n.scored`` and ``n.targets`` count tokens; ``clean.ce``; for each intervention
    ``NAME.kl``, ``.ce``, ``.tv``, ``.agrees`` and, for the baselines, ``.exceeded`` (tokens at
    which the SAE's KL is larger); and the SAE's own ``squared_error``, ``squared_deviation``,
    ``squared_output``, ``inner_product``, ``norm_ratio``, ``cosine``, ``norm``, ``l0``, ``l1``,
    ``l1_unit``; ``error_along_mean`` is e·ē with ē the SAE's mean error on the bank of the corpus
    statistics, ``pca_matched.squared_error`` that of the matched principal components, and
    ``current_token.ce`` the model's CE from the current token alone; and for each figure that the
    SAE is said to have ``promised.NAME``, the same at each token. All are over the counted tokens,
    CE over those with a target.

    Attributes:
        sums: the channels.
        interventions: the names that were measured.
        fired: for each feature the number of tokens on which it fired.
        failures: the error of each intervention that could not be computed.
        path: ``resumed``, or ``full`` if the model could not be resumed exactly.
        per_token: values token by token of the channels for which they were requested.
        moves: corrects squared deviations from a fixed vector to those from the run's mean; None
            once that is done.
        pursuit: its error against sparse coding over random directions, if that was requested.
        transcodes: the SAE is a transcoder, which reads elsewhere than it writes.
        promises: for each figure that the SAE is said to have where it is stated.
        dictionary: how each feature was used, if that was requested.
        by_token: KL of single token ids, if strata were requested.
        claimed: the context that the SAE claims to work on, if that claim is judged.
    """

    sums: TokenSums = state(TokenSums.joined)
    interventions: tuple[str, ...] = state()
    fired: np.ndarray = state(total)
    path: str = state(one_path)
    failures: dict[str, MeasurementError] = state(_failures, factory=dict)
    per_token: TokenMeasurement | None = state(merged, default=None)
    moves: Moves | None = state(merged, default=None)
    pursuit: PursuitErrors | None = state(default=None)
    transcodes: bool = state(default=False)
    promises: Mapping[str, str] = state(first, factory=dict)
    dictionary: DictionaryUse | None = state(merged, default=None)
    by_token: TokenStrata | None = state(merged, default=None)
    claimed: int | None = state(default=None)

    @classmethod
    def merged(cls, parts: Sequence[Any]) -> Self:
        """Return the merged parts; an intervention that failed in one part has failed."""
        run = super().merged(parts)
        run.interventions = tuple(n for n in run.interventions if n not in run.failures)
        return run

    def finished(self) -> Self:
        """Compute what needs the whole run, once all parts are merged.

        Squared deviations are corrected to those from the run's mean, and the mass of features that
        fire in one sequence alone is counted for that sequence.
        """
        if self.moves is not None:
            table = self.sums.by_sequence
            table["squared_deviation"] += self.moves.moved(table[SCORED])
            self.moves = None
        if self.dictionary is not None:
            alone = self.dictionary.one_sequence(self.sums.sequences, first=self.sums.first)
            self.sums.by_sequence[ONE_SEQUENCE] = alone
        return self

    def check(self) -> None:
        """Refuse an SAE whose features never fire: it is a constant, or a map past its features.

        Raises:
            MeasurementError: with the number of tokens.
        """
        if self.fired.size and not self.fired.any():
            raise silence(int(self.sums.total(SCORED)), "tokens")

    def table(self) -> Mapping[str, np.ndarray]:
        """Return the per-sequence sums of every channel."""
        return self.sums.by_sequence

    def bins(self) -> tuple[tuple[int, int], ...]:
        """Return each bin's range of positions, the end excluded."""
        return tuple(pairwise(self.sums.edges))

    def need(self, *interventions: str) -> None:
        """Check that the interventions were measured and their KL and CE are finite.

        Raises:
            MeasurementError: the one that an intervention failed with.
            NonFiniteValue: if a KL or CE is NaN or infinite.
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
    """The sums of a pair of SAEs over the run's tokens, the first SAE before the second.

    Channels: ``n.scored``; for ``clean``, ``sae`` (the first SAE substituted) and ``eps_random``
    (a random error of the same size in its place) the second SAE's ``squared_error`` and ``l0``
    and the ``norm`` of its input; for the two substitutions ``kl_first`` and ``kl_second`` (at one
    site alone) and ``kl_together``.

    Attributes:
        sums: the channels.
        ids: the first SAE's and the second's.
        hooks: the two SAEs' hooks.
        path: ``resumed``, or ``full`` if the model could not be resumed exactly.
    """

    sums: TokenSums = state(TokenSums.joined)
    ids: tuple[str, str] = state()
    hooks: tuple[str, str] = state()
    path: str = state(one_path)

    def table(self) -> Mapping[str, np.ndarray]:
        """Return the per-sequence sums of every channel."""
        return self.sums.by_sequence
