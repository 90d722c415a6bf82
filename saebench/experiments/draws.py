"""The KL of single tokens under the SAE, ranked among many random errors of the same size."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saebench.errors import MeasurementError, NonFiniteValue
from saebench.experiments.base import Extent, ManyDraws, Targets
from saebench.experiments.windows import (
    Placed,
    SingleTokenEngine,
    SingleTokenMeasurer,
    WindowBatch,
    Windows,
    stretch,
)
from saebench.measures.resources import NOISE, READOUT, Stages
from saebench.measures.state import State, concatenated, concatenated_if_any, one_path, state, total
from saebench.progress import ProgressBar
from saebench.records.metric import CLUSTER
from saebench.subjects.sae import Subject
from saebench.substitution.engine import Progress
from saebench.substitution.interventions import Tokens, substitute
from saebench.substitution.noise import NoiseSource
from saebench.substitution.readout import read_out

ROUNDING = 1e-6  # relative, of values read out in fp32


@dataclass(frozen=True)
class Standing:
    """The z-score and percentile of each row's value among its draws.

    Attributes:
        z: (value - mean of the draws) / their standard deviation; NaN if undefined.
        percentile: the share of draws below the value, ties counted half; NaN if undefined.
        defined: True for rows whose draws differ by more than rounding.
    """

    z: np.ndarray
    percentile: np.ndarray
    defined: np.ndarray


def standing(value: np.ndarray, draws: np.ndarray, *, resolution: float) -> Standing:
    """Return the z-score and percentile of each row's value among its draws.

    Args:
        value: one for each row.
        draws: two or more for each row.
        resolution: rows whose mean draw is not above it are undefined: it is only rounding.

    Raises:
        ValueError: for fewer than two draws, which have no standard deviation.

    Source:
        docs/metrics.md (single_token); Gurnee 2024, "SAE reconstruction errors are (empirically)
        pathological", "How pathological are the errors?".

    Example:
        >>> result = standing(np.array([5.0]), np.array([[1.0, 2.0, 3.0]]), resolution=0.0)
        >>> result.z.tolist(), result.percentile.tolist()
        ([3.0], [1.0])
    """
    if draws.ndim != 2 or draws.shape[1] < 2:
        raise ValueError(f"a standing needs two draws or more, found {draws.shape}")
    with np.errstate(invalid="ignore"):  # values that are not finite are undefined
        mean, spread = draws.mean(axis=1), draws.std(axis=1, ddof=1)
        defined = np.isfinite(value) & np.isfinite(mean) & (mean > resolution)
        defined &= spread > ROUNDING * mean
    below = (draws < value[:, None]).mean(axis=1) + (draws == value[:, None]).mean(axis=1) / 2
    distance = np.where(defined, value, 0) - np.where(defined, mean, 0)
    return Standing(
        z=np.where(defined, distance / np.where(defined, spread, 1), np.nan),
        percentile=np.where(defined, below, np.nan),
        defined=defined,
    )


BASELINE = "eps_random"
# fp32 logits of size 10 have rounding errors of about 1e-5; KL is of the order of their square.
RESOLUTION = 1e-8
Z_LIMIT = 2.0


@dataclass(frozen=True)
class DrawsMeasurement(State):
    """The KL at single tokens under one SAE, and under random errors of the same size.

    Attributes:
        position: of the substituted token.
        sequences: number of sequences considered.
        sequence: the indices of those that were measured.
        sae: KL under the SAE, in nats.
        draws: KL under each ε-random draw, in nats.
        path: as in :class:`saebench.substitution.measurement.Measurement`.
        clusters: the cluster of each measured sequence, if any repeat each other.
    """

    position: int = state()
    sequences: int = state(total)
    sequence: np.ndarray = state(concatenated)
    sae: Float[np.ndarray, "measured"] = state(concatenated)
    draws: Float[np.ndarray, "measured draws"] = state(concatenated)
    path: str = state(one_path)
    clusters: np.ndarray | None = state(concatenated_if_any, default=None)

    @property
    def left_out(self) -> int:
        """Number of sequences with a special token at the position, which is not substituted."""
        return self.sequences - len(self.sequence)

    @property
    def measured_sequences(self) -> np.ndarray:
        """The index of the sequence of each row of the table."""
        return self.sequence

    def need(self) -> None:
        """Check that every KL is finite.

        Raises:
            NonFiniteValue: if a KL is NaN or infinite.
        """
        for name, values in (("sae", self.sae), (BASELINE, self.draws)):
            if not np.isfinite(values).all():
                bad = np.unique(np.argwhere(~np.isfinite(values))[:, 0])
                raise NonFiniteValue(
                    f"{name}.kl is not finite at {len(bad)} of {len(values)} tokens, first in "
                    f"sequence {int(self.sequence[bad[0]])}: the model's logits overflow under "
                    "this substitution (try --sae-dtype float32)"
                )

    def standing(self) -> Standing:
        """Return the z-score and percentile of the SAE's KL among the draws, token by token."""
        return standing(self.sae, self.draws, resolution=RESOLUTION)

    def table(self) -> Mapping[str, np.ndarray]:
        """Return one row for each token; all channels are zero where z is undefined."""
        standing = self.standing()
        values = {
            "n.drawn": np.ones(len(self.sequence)),
            "z": standing.z,
            "z.above": (standing.z > Z_LIMIT).astype(np.float64),
            "percentile": standing.percentile,
        }
        table = {channel: np.where(standing.defined, v, 0.0) for channel, v in values.items()}
        if self.clusters is not None:
            table[CLUSTER] = self.clusters.astype(np.float64)
        return table


@dataclass(frozen=True)
class _Draw(Tokens):
    """Tokens with the noise of one draw."""

    drawn: Float[Tensor, "tokens d"] = field(kw_only=True)

    def noise(self, name: str) -> Float[Tensor, "tokens d"]:  # noqa: ARG002
        return self.drawn


class DrawsEngine(SingleTokenEngine):
    """Measures SAEs against many random errors of the same size, at one token of each sequence."""

    def measure(
        self,
        subjects: Sequence[Subject],
        *,
        position: int,
        draws: int,
        sequences: int,
        progress: Progress,
    ) -> dict[str, DrawsMeasurement | MeasurementError]:
        """Return each SAE's measurement by its id, or the error that prevented it.

        Args:
            subjects: the SAEs.
            position: of the token to substitute.
            draws: number of random errors for each token.
            sequences: number of sequences to consider, the first of the run.
            progress: called with the number of draws just finished.

        Raises:
            NotApplicable: if there is no such position, or no token there may be substituted.

        Source:
            docs/metrics.md (single_token); Gurnee 2024.
        """
        where = stretch(self._engine.tokens, position, offsets=0, sequences=sequences)
        failed: dict[str, DrawsMeasurement | MeasurementError] = {}
        gathering: list[_SubjectDraws] = []
        for subject in subjects:
            try:
                gathering.append(_SubjectDraws(self._places.of(subject), draws))
            except MeasurementError as error:
                failed[subject.id] = error
        if not gathering:
            return failed
        windows = Windows(self._engine, where, [g.at.site for g in gathering], self._batch_size)
        self.stages = windows.stages
        for batch in windows.batches(jobs=draws + 2):
            for g in gathering:
                g.parts.append(self._kl(windows, batch, g.at, draws))
                progress(draws * len(batch.sequence))
        clusters = self._engine.tokens.clusters
        return failed | {g.at.subject.id: g.joined(windows, clusters) for g in gathering}

    def _kl(
        self, windows: Windows, batch: WindowBatch, at: Placed, draws: int
    ) -> tuple[Tensor, ...]:
        """Return the substituted tokens' sequences, their KL under the SAE and under each draw."""
        tokens = at.tokens(batch, stages=windows.stages)
        hidden = windows.resume(batch, at.site, {"sae": tokens.x_hat})
        for some in _chunks(draws, windows.stack(batch)):
            with windows.stages(NOISE):
                noise = zip(some, _noise(tokens, some), strict=True)
                changed = {
                    str(k): substitute(BASELINE, _Draw(**vars(tokens), drawn=z)) for k, z in noise
                }
            hidden |= windows.resume(batch, at.site, changed)
        with windows.stages(READOUT):
            _, readouts = read_out(windows.host, batch.final, hidden, targets=batch.targets)
        kl = torch.stack([readouts[str(k)].kl for k in range(draws)], dim=1)
        return batch.sequence, readouts["sae"].kl, kl


@dataclass
class _SubjectDraws:
    """An SAE and its results batch by batch."""

    at: Placed
    draws: int
    parts: list[tuple[Tensor, ...]] = field(default_factory=list)

    def joined(self, windows: Windows, clusters: np.ndarray | None) -> DrawsMeasurement:
        joined = [torch.cat(column).cpu() for column in zip(*self.parts, strict=True)]
        none = tuple(
            torch.empty(*shape, dtype=torch.float32) for shape in ((0,), (0,), (0, self.draws))
        )
        sequence, sae, draws = (column.numpy() for column in joined or none)
        measured = windows.where.kept.nonzero()[:, 0].numpy()
        return DrawsMeasurement(
            position=windows.where.position,
            sequences=len(windows.where.kept),
            sequence=sequence.astype(np.int64),
            sae=sae.astype(np.float64),
            draws=draws.astype(np.float64),
            path=windows.passes.path(self.at.site),
            clusters=None if clusters is None else clusters[measured],
        )


def _noise(tokens: Tokens, draws: range) -> Float[Tensor, "draws tokens d"]:
    """Return the noise of several draws, generated together: a GPU kernel for each is slow."""
    times, count = len(draws), len(tokens.sequence)
    sequence, position = (t.repeat(times) for t in (tokens.sequence, tokens.position))
    draw = torch.arange(draws.start, draws.stop, device=sequence.device).repeat_interleave(count)
    source = NoiseSource(tokens.seed, BASELINE)
    noise = source.normal(sequence, position, d=tokens.x.shape[-1], draw=draw)
    return noise.unflatten(0, (times, count))


def _chunks(n: int, size: int) -> Iterator[range]:
    for start in range(0, n, size):
        yield range(start, min(start + size, n))


class DrawsMeasurer(SingleTokenMeasurer):
    """Measures SAEs and many random errors at one token of each of the first sequences."""

    experiment: ManyDraws

    def extent(self, targets: Targets) -> Extent:  # noqa: ARG002
        """Return the first sequences; each draw, run from its token on, counts as one token."""
        run, draws = self.bench.extent, self.experiment
        return Extent(min(draws.sequences, run.count), draws.draws, run.fingerprint)

    def run(self, targets: Targets, *, progress: ProgressBar) -> tuple[Mapping[str, Any], Stages]:
        """Measure all SAEs on the bench's sequences."""
        draws, subjects = self.experiment, [target.subject for target in targets]
        engine = DrawsEngine(self.bench.places, batch_size=self.bench.settings.batch_size)
        sequences = min(len(self.bench.part(self.bench.tokens).ids), draws.sequences)
        label = f"{self.label(targets)}, {draws.draws} draws"
        with progress(label, sequences * draws.draws * len(subjects)) as advance:
            by_name = engine.measure(subjects, **asdict(draws), progress=advance)
        return by_name, engine.stages
