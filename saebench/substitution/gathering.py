"""Each SAE's sites in the model, and the folding of its per-token readouts into sums."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saebench.errors import HookError, MeasurementError, NonFiniteValue, UndefinedDirection
from saebench.measures.divergence import RowReadout
from saebench.measures.names import CURRENT_TOKEN, DENSE, EXACT, Probe, promised
from saebench.measures.reconstruction import reconstruction
from saebench.measures.sums import TokenSums
from saebench.subjects.hooks import Site, find_site, ignores_mean
from saebench.subjects.host import Host
from saebench.subjects.sae import Reconstruction, Subject
from saebench.substitution.batches import Batch
from saebench.substitution.feature_use import DictionaryWatch
from saebench.substitution.interventions import BankErrors
from saebench.substitution.measurement import SCORED, TARGETS, Measurement, Spread, TokenMeasurement
from saebench.substitution.pursuit import PursuitErrors
from saebench.substitution.token_strata import StrataSums


def site_of(host: Host, subject: Subject) -> Site:
    """Return the site in the model at which the SAE's output is substituted.

    Raises:
        HookError: if the model has no such hook, or its width is not the SAE's.
    """
    meta = subject.metadata
    site = find_site(
        host, meta.hook, head=meta.head, centred=meta.centred, module_path=meta.module_path
    )
    if subject.d_out and subject.d_out != site.width:
        size = "d_in" if meta.input_hook is None else "d_out"
        raise HookError(
            f"{subject.source}: {size} is {subject.d_out}, but {meta.hook} of {host.name} is "
            f"{site.width} wide; is this the model that the SAE was trained on (--sae-model)?"
        )
    return site


def reading_site(host: Host, subject: Subject, *, writes: Site) -> Site:
    """Return the site whose activation the SAE is given: where it writes, or a transcoder's input.

    Args:
        host: the model.
        subject: the SAE.
        writes: the site at which its output is compared and substituted.

    Raises:
        HookError: if the model has no such hook, or its width is not the SAE's.
    """
    meta = subject.metadata
    if meta.input_hook is None:
        return writes
    try:
        site = find_site(
            host,
            meta.input_hook,
            head=meta.input_head,
            centred=meta.centred,
            module_path=meta.module_path,
        )
    except HookError as error:
        raise HookError(
            f"{subject.source}, input hook: {error}; a transcoder's input can be named by "
            "module: --sae-hook model.layers.3.mlp.input"
        ) from error
    if subject.d_in and subject.d_in != site.width:
        raise HookError(
            f"{subject.source}: d_in is {subject.d_in}, but its input hook {meta.input_hook} of "
            f"{host.name} is {site.width} wide"
        )
    return site


def bank_errors(
    host: Host, site: Site, x: Float[Tensor, "bank d"], made: Reconstruction
) -> BankErrors:
    """Return an SAE's errors on the bank of a site's corpus statistics.

    Args:
        host: the model.
        site: where the SAE writes.
        x: the bank's activations there.
        made: the SAE's output for them.
    """
    blind = ignores_mean(host, site)
    return BankErrors.of(x, made.x_hat, unread_mean=blind, skipped=made.skipped)


@dataclass(frozen=True)
class Scored:
    """The tokens that a batch's readouts belong to: one row of a readout for each counted token.

    Attributes:
        rows: the sequences.
        counted: the tokens at which KL is scored.
        has_target: the tokens at which CE is scored.
    """

    rows: slice
    counted: Bool[Tensor, "batch pos"]
    has_target: Bool[Tensor, "batch pos"]

    def spread(self, values: Tensor) -> Float[Tensor, "batch pos"]:
        """Put one value for each counted token at its row and position; zero elsewhere."""
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
        readouts: by intervention.
        at: the tokens that they belong to.
    """
    sums.count(SCORED, at.counted, rows=at.rows)
    sums.count(TARGETS, at.has_target, rows=at.rows)
    sums.add("clean.ce", at.spread(ce), mask=at.has_target, rows=at.rows)
    for name, readout in readouts.items():
        for channel, values, mask in (
            ("kl", readout.kl, at.counted),
            ("tv", readout.tv, at.counted),
            ("agrees", readout.agrees.float(), at.counted),
            ("ce", readout.ce, at.has_target),
        ):
            sums.add(f"{name}.{channel}", at.spread(values), mask=mask, rows=at.rows)
        sums.tally(f"{name}.kl", readout.kl)
        if "sae" in readouts and name != "sae":
            exceeded = at.spread((readouts["sae"].kl > readout.kl).float())
            sums.add(f"{name}.exceeded", exceeded, mask=at.counted, rows=at.rows)


FAR_BELOW = 0.25  # of explained variance: more than it varies from one data set to another


@dataclass
class Gathered:
    """One SAE with its site, and its sums so far.

    Attributes:
        subject: the SAE.
        site: where its output is substituted.
        reads: where it reads its input; for a transcoder another site.
        interventions: those that are measured; one that fails is removed.
        sums: the channels.
        spread: the activations' deviations from their mean.
        bank: the SAE's errors on the reference's bank; None if no intervention needs them.
        fired: for each feature the number of tokens on which it fired.
        failures: the error of each intervention that could not be computed.
        probes: further channels to read out of each pass.
        watches: record how each feature is used.
        pursues: compare the SAE's error with that of sparse coding over random directions.
        pursuit: those errors.
        without_context: read the model's cross-entropy from the current token alone, too.
        squared_errors: ‖x - x′‖² of the current batch's tokens, of interventions whose error is
            compared with the SAE's.
        dictionary: records how each feature is used; None if nothing reads it.
        strata: sums of KL by kinds of tokens; None if nothing reads them.
    """

    subject: Subject
    site: Site
    reads: Site
    interventions: list[str]
    sums: TokenSums
    spread: Spread | None = None
    bank: BankErrors | None = None
    fired: Tensor | None = None
    failures: dict[str, UndefinedDirection] = field(default_factory=dict)
    probes: tuple[Probe, ...] = ()
    without_context: bool = False
    watches: bool = False
    pursues: bool = False
    pursuit: PursuitErrors | None = None
    squared_errors: dict[str, Tensor] = field(default_factory=dict)
    dictionary: DictionaryWatch | None = None
    strata: StrataSums | None = None

    def drop(self, name: str, error: UndefinedDirection) -> None:
        """Stop measuring an intervention."""
        self.failures[name] = error
        self.interventions.remove(name)

    def fold_reconstruction(self, batch: Batch, x: Tensor, output: Reconstruction) -> None:
        """Add the SAE's reconstructions of a batch's activations."""
        assert self.spread is not None
        compared = reconstruction(x, output.x_hat, centre=self.spread.centre)
        values = vars(compared) | {"norm": x.norm(dim=-1), "l0": output.l0, "l1": output.l1}
        values[EXACT] = (compared.squared_error == 0).double()
        values[DENSE] = (2 * output.l0 >= self.reads.width).double()
        if output.l1_unit is not None:
            values["l1_unit"] = output.l1_unit
        if self.bank is not None:
            mean = self.bank.mean.float()
            values["error_along_mean"] = ((x - output.x_hat) @ mean).double()
        for name in self.interventions:
            if name in self.squared_errors:
                values[f"{name}.squared_error"] = self.squared_errors[name]
        for name, promise in self.subject.promises.items():
            values[promised(name)] = torch.full_like(output.l0, promise.value, dtype=torch.float64)
        for channel, value in values.items():
            self.sums.add(channel, batch.spread(value), mask=batch.counted, rows=batch.rows)
        self.fired = output.fired if self.fired is None else self.fired + output.fired
        if self.dictionary is not None:
            self.dictionary.fold(self.sums, batch, output)
        self.spread.update(x, batch.at[0] + batch.rows.start)

    def fold_readouts(self, batch: Batch, ce: Tensor, readouts: dict[str, RowReadout]) -> None:
        """Add the readouts of the model's predictions."""
        fold(self.sums, ce, readouts, at=batch)
        if self.strata is not None and "sae" in readouts:
            self.strata.fold(self.sums, batch, readouts["sae"].kl)

    def fold_current_token(self, batch: Batch, ce: Float[Tensor, "batch pos"]) -> None:
        """Add the cross-entropy from the current token alone."""
        self.sums.add(f"{CURRENT_TOKEN}.ce", ce, mask=batch.has_target, rows=batch.rows)

    def fold_probes(self, batch: Batch, values: Mapping[Probe, Tensor]) -> None:
        """Add what the probes read."""
        for probe, value in values.items():
            self.sums.add(probe.channel, batch.spread(value), mask=batch.counted, rows=batch.rows)

    def finished(
        self, path: str, *, per_token: TokenMeasurement | None = None, part: bool = False
    ) -> Measurement:
        """Return the measurement; of a part of the run one that can be merged with others."""
        assert self.spread is not None
        assert self.fired is not None
        measurement = Measurement(
            sums=self.sums.fetch(),
            interventions=tuple(self.interventions),
            fired=self.fired.cpu().numpy().astype(np.int64),
            path=path,
            failures=dict(self.failures),
            per_token=per_token,
            moves=self.spread.moves(),
            transcodes=self.reads != self.site,
            pursuit=self.pursuit,
            promises={name: p.source for name, p in self.subject.promises.items()},
            dictionary=None if self.dictionary is None else self.dictionary.use(),
            by_token=None if self.strata is None else self.strata.by_token(),
        )
        return measurement if part else measurement.finished()


def check_first_look(subject: Subject, x: Tensor, x_hat: Tensor) -> None:
    """Refuse an SAE whose first reconstructions are not finite, or far worse than its release's.

    Args:
        subject: the SAE.
        x: the first activations.
        x_hat: their reconstructions.

    Raises:
        NonFiniteValue: if a reconstruction is NaN or infinite.
        MeasurementError: if explained variance is far below the release's own figure.
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
    explained = 1 - float((x - x_hat).double().square().sum() / spread)
    if explained < expected - FAR_BELOW:
        raise MeasurementError(
            f"{subject.source}: explains {explained:.2f} of the variance, its release says "
            f"{expected:.2f}: wrong weights, wrong hook, or a model processed differently"
        )
