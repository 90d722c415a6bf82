"""Position 0 and special tokens substituted too, and sinks: activations of extreme size."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from saebench.data.tokens import TokenSet
from saebench.errors import MeasurementError, NonFiniteValue, NotApplicable
from saebench.experiments.base import Everywhere, Extent, Measurer, Results, Targets
from saebench.measures.reconstruction import reconstruction
from saebench.measures.resources import CLEAN, FOLD, READOUT, RESUME, Stages
from saebench.measures.state import State, merged, one_path, state
from saebench.measures.sums import TokenSums
from saebench.progress import ProgressBar
from saebench.subjects.hooks import Site
from saebench.subjects.sae import Subject
from saebench.substitution.batches import (
    Batch,
    cut,
    make_batch,
    read_rows,
    sequences_at_once,
    write_rows,
)
from saebench.substitution.engine import Engine, Progress
from saebench.substitution.gathering import check_first_look, reading_site, site_of
from saebench.substitution.measurement import SCORED, Moves, Spread, with_clusters
from saebench.substitution.passes import CleanPass, Passes
from saebench.substitution.readout import read_out
from saebench.substitution.reference import Reference

SINK = 10.0  # times the median norm
SINKS, REST = "n.sinks", "n.rest"
USUAL, EVERYWHERE = "usual", "everywhere"


@dataclass
class EverywhereMeasurement(State):
    """One SAE's sums over the counted tokens of the run's first sequences.

    Channels: ``n.scored``, ``n.sinks`` and ``n.rest`` count tokens, sinks and the others;
    ``usual.kl`` is the KL with the counted tokens substituted and ``everywhere.kl`` with all of
    them; ``squared_error`` and ``squared_deviation`` are those of all counted tokens, and with
    ``rest.`` before them of those that are no sinks.

    Attributes:
        sums: the channels.
        path: as in :class:`saebench.substitution.measurement.Measurement`.
        moves: corrects squared deviations to those from the tokens' mean; None once that is done.
        moves_of_rest: the same without sinks.
    """

    sums: TokenSums = state(TokenSums.joined)
    path: str = state(one_path)
    moves: Moves | None = state(merged, default=None)
    moves_of_rest: Moves | None = state(merged, default=None)

    def finished(self) -> Self:
        """Correct squared deviations to those from the mean, once all parts are merged."""
        table = self.sums.by_sequence
        if self.moves is not None and self.moves_of_rest is not None:
            table["squared_deviation"] += self.moves.moved(table[SCORED])
            table["rest.squared_deviation"] += self.moves_of_rest.moved(table[REST])
            self.moves = self.moves_of_rest = None
        return self

    def table(self) -> Mapping[str, np.ndarray]:
        """Return the per-sequence sums of every channel."""
        return self.sums.by_sequence

    def need(self) -> None:
        """Check that every sum is finite.

        Raises:
            NonFiniteValue: naming the channel.
        """
        for channel, values in self.table().items():
            if not np.isfinite(values).all():
                bad = np.flatnonzero(~np.isfinite(values))
                raise NonFiniteValue(
                    f"{channel} is not finite in {len(bad)} of {len(values)} sequences, first in "
                    f"sequence {int(bad[0]) + self.sums.first}: the reconstructions or the "
                    "model's logits overflow there (try --sae-dtype float32)"
                )


@dataclass
class _Gathered:
    """An SAE at its sites, with its sums so far."""

    subject: Subject
    site: Site
    reads: Site
    limit: Tensor
    sums: TokenSums
    spread: Spread
    spread_of_rest: Spread
    is_checked: bool = False

    @classmethod
    def of(cls, subject: Subject, engine: Engine, tokens: TokenSet) -> "_Gathered":
        site = site_of(engine.host, subject)
        reads = reading_site(engine.host, subject, writes=site)
        reference = engine.reference(site)
        sequences, context = tokens.ids.shape
        sums = with_clusters(TokenSums(sequences, context, first=tokens.first), tokens)
        every, rest = (Spread(sequences, reference.mean, by_sequence=True) for _ in range(2))
        return cls(subject, site, reads, sink_limit(reference), sums, every, rest)

    def fold(self, batch: Batch, x: Tensor, x_hat: Tensor) -> None:
        """Add the reconstructions of the counted tokens."""
        compared = reconstruction(x, x_hat, centre=self.spread.centre)
        is_rest = x.double().norm(dim=-1) <= self.limit
        local = batch.at[0] + batch.rows.start
        counted, rest = batch.counted, batch.spread(is_rest)
        for prefix, mask in (("", counted), ("rest.", rest)):
            for name in ("squared_error", "squared_deviation"):
                values = batch.spread(getattr(compared, name))
                self.sums.add(f"{prefix}{name}", values, mask=mask, rows=batch.rows)
        for name, mask in ((SCORED, counted), (REST, rest), (SINKS, counted & ~rest)):
            self.sums.count(name, mask, rows=batch.rows)
        self.spread.update(x, local)
        self.spread_of_rest.update(x[is_rest], local[is_rest])


def sink_limit(reference: Reference) -> Tensor:
    """Return the norm above which an activation is a sink: ten times the median of the bank's."""
    return SINK * reference.bank.double().norm(dim=-1).quantile(0.5)


class EverywhereEngine:
    """Measures SAEs with the counted tokens substituted, and with all of them.

    Args:
        engine: provides the model, the seed and the run's corpus statistics.
        tokens: the sequences to measure.
        batch_size: sequences in a batch; if None, chosen from free memory.

    Attributes:
        stages: the time that each stage of the measurement took.
    """

    def __init__(self, engine: Engine, tokens: TokenSet, *, batch_size: int | None = None) -> None:
        self.host = engine.host
        self.tokens = tokens
        self.stages = Stages(engine.host.device)
        self._engine = engine
        self._batch_size = batch_size
        self._passes = Passes(engine.host)

    def measure(
        self, subjects: Sequence[Subject], *, progress: Progress
    ) -> dict[str, EverywhereMeasurement | MeasurementError]:
        """Return each SAE's measurement by its id, or the error that prevented it.

        Args:
            subjects: the SAEs.
            progress: called with the number of tokens just finished.
        """
        # One pass computes the statistics of all sites.
        self._engine.references_at([site_of(self.host, subject) for subject in subjects])
        gathering = [_Gathered.of(s, self._engine, self.tokens) for s in subjects]
        failed: dict[str, EverywhereMeasurement | MeasurementError] = {}
        for batch, clean in self._batches(gathering):
            for g in gathering:
                if not batch.counts or g.subject.id in failed:
                    continue
                try:
                    self._measure_batch(batch, clean, g)
                except MeasurementError as error:
                    failed[g.subject.id] = error
            progress(batch.ids.numel())
        return {g.subject.id: self._finished(g) for g in gathering} | failed

    def _batches(self, gathering: Sequence[_Gathered]) -> Iterator[tuple[Batch, CleanPass]]:
        sequences, context = self.tokens.ids.shape
        sites = list(dict.fromkeys(site for g in gathering for site in (g.site, g.reads)))
        at_once = sequences_at_once(self.host, context=context, vectors=6 + 2 * len(sites))
        for rows in cut(sequences, self._batch_size or max(1, at_once // 2)):
            batch = make_batch(self.tokens, rows, device=self.host.device)
            with self.stages(CLEAN):
                clean = self._passes.clean(batch.ids, sites)
            yield batch, clean

    def _measure_batch(self, batch: Batch, clean: CleanPass, g: _Gathered) -> None:
        assert clean.final is not None
        every = torch.ones_like(batch.counted)
        x_hat = g.subject.reconstruct(
            read_rows(g.reads, clean.activations[g.reads], every), stages=self.stages
        ).x_hat
        counted = batch.counted.flatten()
        x = read_rows(g.site, clean.activations[g.site], batch.counted)
        if not g.is_checked and len(x):
            check_first_look(g.subject, x, x_hat[counted])
            g.is_checked = True
        hidden = self._hidden(batch, clean, g, {USUAL: x_hat[counted], EVERYWHERE: x_hat})
        with self.stages(READOUT):
            targets = batch.ids.roll(-1, dims=1)[batch.counted]
            _, readouts = read_out(self.host, clean.final[batch.counted], hidden, targets=targets)
        with self.stages(FOLD):
            g.fold(batch, x, x_hat[counted])
            for name, readout in readouts.items():
                values = batch.spread(readout.kl)
                g.sums.add(f"{name}.kl", values, mask=batch.counted, rows=batch.rows)

    def _hidden(
        self, batch: Batch, clean: CleanPass, g: _Gathered, changed: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the counted tokens' final hidden states under both substitutions."""
        base = clean.activations[g.site]
        masks = {USUAL: batch.counted, EVERYWHERE: torch.ones_like(batch.counted)}
        with self.stages(RESUME):
            stacked = base.expand(len(masks), *base.shape).clone()
            for place, (name, mask) in zip(stacked, masks.items(), strict=True):
                write_rows(g.site, place, changed[name], mask)
            final = self._passes.resume(clean, g.site, stacked)
        return {name: f[batch.counted] for name, f in zip(masks, final, strict=True)}

    def _finished(self, g: _Gathered) -> EverywhereMeasurement | MeasurementError:
        if not g.is_checked and not self.tokens.is_part:
            return MeasurementError(f"{g.subject.source}: no token of these sequences counts")
        path = "resumed" if self._passes.is_exact(g.site) else "full"
        moves = (g.spread.moves(), g.spread_of_rest.moves())
        measurement = EverywhereMeasurement(g.sums.fetch(), path, *moves)
        return measurement if self.tokens.is_part else measurement.finished()


class EverywhereMeasurer(Measurer):
    """Measures SAEs and transcoders on the first sequences with every token substituted."""

    experiment: Everywhere

    def extent(self, targets: Targets) -> Extent:  # noqa: ARG002
        """Return the first sequences."""
        run = self.bench.extent
        return Extent(min(self.experiment.sequences, run.count), run.width, run.fingerprint)

    def corpora(self, targets: Targets) -> list[TokenSet]:  # noqa: ARG002
        """Return the run's sequences."""
        return [self.bench.tokens]

    def measure(self, targets: Targets, *, progress: ProgressBar) -> Results:
        """Measure all SAEs with one clean pass."""
        bench, whole = self.bench, self.bench.tokens
        if bool(whole.counted[: self.experiment.sequences].all()):
            return Results.failed(targets, _everything_counts())
        tokens = self._first(bench.part(whole))
        engine = EverywhereEngine(bench.engine(whole), tokens, batch_size=bench.settings.batch_size)
        with progress(self.label(targets), tokens.ids.numel()) as advance:
            by_name = engine.measure([target.subject for target in targets], progress=advance)
        bench.count_cost(self.experiment, targets, engine.stages, tokens=tokens.ids)
        return Results.of(by_name)

    def _first(self, tokens: TokenSet) -> TokenSet:
        """Return those of some sequences that are among the run's first ones."""
        first = tokens.part(slice(0, max(0, self.experiment.sequences - tokens.first)))
        return replace(first, is_part=tokens.is_part)


def _everything_counts() -> NotApplicable:
    return NotApplicable(
        "special_tokens: position 0 and special tokens are substituted in every measurement "
        "already (--sae-score-bos), so that there is nothing to compare"
    )
