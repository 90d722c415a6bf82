"""From readouts of tokens to sums over sequences and positions."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saebench.errors import MeasurementError, NonFiniteValue, UndefinedDirection
from saebench.measures.divergence import RowReadout
from saebench.measures.names import Probe
from saebench.measures.reconstruction import reconstruction
from saebench.measures.sums import TokenSums
from saebench.subjects.hooks import Site
from saebench.subjects.sae import Reconstruction, Subject
from saebench.substitution.batches import Batch
from saebench.substitution.measurement import SCORED, TARGETS, Measurement, Spread, TokenMeasurement


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


FAR_BELOW = 0.25  # of explained variance: more than another data set takes away


@dataclass
class Gathered:
    """One SAE with its place, and the sums it gathers.

    Attributes:
        subject: the SAE.
        site: where it is put.
        reads: where it reads: a transcoder elsewhere than where it is put.
        interventions: those still being measured.
        sums: the channels.
        spread: the activations' deviations from their mean.
        bank_errors: the SAE's errors at the reference's bank; empty where nothing needs them.
        fired: tokens at which each feature fired.
        failures: interventions that could not be made, and why.
        probes: further channels to read out of each pass.
    """

    subject: Subject
    site: Site
    reads: Site
    interventions: list[str]
    sums: TokenSums
    spread: Spread | None = None
    bank_errors: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float32))
    fired: Tensor | None = None
    failures: dict[str, UndefinedDirection] = field(default_factory=dict)
    probes: tuple[Probe, ...] = ()

    def drop(self, name: str, error: UndefinedDirection) -> None:
        """Measure an intervention no longer."""
        self.failures[name] = error
        self.interventions.remove(name)

    def fold_reconstruction(self, batch: Batch, x: Tensor, found: Reconstruction) -> None:
        """Add what the SAE made of a batch's activations."""
        assert self.spread is not None
        compared = reconstruction(x, found.x_hat, centre=self.spread.centre)
        values = vars(compared) | {"norm": x.norm(dim=-1), "l0": found.l0, "l1": found.l1}
        if found.l1_unit is not None:
            values["l1_unit"] = found.l1_unit
        for channel, value in values.items():
            self.sums.add(channel, batch.spread(value), mask=batch.counted, rows=batch.rows)
        self.fired = found.fired if self.fired is None else self.fired + found.fired
        self.spread.update(x, batch.at[0] + batch.rows.start)

    def fold_readouts(self, batch: Batch, ce: Tensor, readouts: dict[str, RowReadout]) -> None:
        """Add what became of the model's predictions."""
        fold(self.sums, ce, readouts, at=batch)

    def fold_probes(self, batch: Batch, values: Mapping[Probe, Tensor]) -> None:
        """Add what the probes read."""
        for probe, value in values.items():
            self.sums.add(probe.channel, batch.spread(value), mask=batch.counted, rows=batch.rows)

    def finished(
        self, path: str, *, per_token: TokenMeasurement | None = None, part: bool = False
    ) -> Measurement:
        """Return the measurement; of a part of the run, what others must be added to."""
        assert self.spread is not None
        assert self.fired is not None
        found = Measurement(
            sums=self.sums.fetch(),
            interventions=tuple(self.interventions),
            fired=self.fired.cpu().numpy().astype(np.int64),
            path=path,
            failures=dict(self.failures),
            per_token=per_token,
            moves=self.spread.moves(),
        )
        return found if part else found.finished()


def check_first_look(subject: Subject, x: Tensor, x_hat: Tensor) -> None:
    """Stop early where the SAE gives no numbers, or plainly is not the one that was released.

    Args:
        subject: the SAE.
        x: the first activations.
        x_hat: what it made of them.

    Raises:
        NonFiniteValue: where a reconstruction is NaN or infinite.
        MeasurementError: where explained variance is far below the release's own figure.
    """
    if not torch.isfinite(x_hat).all():
        bad = int((~torch.isfinite(x_hat)).any(dim=-1).sum())
        raise NonFiniteValue(
            f"{subject.source}: reconstructions of {bad} of {len(x)} activations are NaN or "
            "infinite: are these the weights and the hook that belong together?"
        )
    expected = subject.expected_explained_variance
    if expected is None:
        return
    spread = (x - x.mean(dim=0)).double().square().sum()
    found = 1 - float((x - x_hat).double().square().sum() / spread)
    if found < expected - FAR_BELOW:
        raise MeasurementError(
            f"{subject.source}: explains {found:.2f} of the variance, its release says "
            f"{expected:.2f}: wrong weights, wrong hook, or a model processed differently"
        )
