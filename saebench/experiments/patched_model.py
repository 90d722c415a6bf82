"""A model that was patched for its SAE, compared with the original on the same tokens."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from saebench.data.tokens import TokenSet
from saebench.errors import MeasurementError, NonFiniteValue, NotApplicable
from saebench.experiments.base import Extent, Measurer, Results, Targets
from saebench.measures.state import State, one_path, state
from saebench.measures.sums import TokenSums
from saebench.progress import ProgressBar
from saebench.subjects.host import Host
from saebench.subjects.host_loading import FILE
from saebench.subjects.sae import Subject
from saebench.substitution.batches import (
    Batch,
    cut,
    make_batch,
    read_rows,
    sequences_at_once,
    write_rows,
)
from saebench.substitution.engine import Progress
from saebench.substitution.gathering import reading_site, site_of
from saebench.substitution.measurement import with_clusters
from saebench.substitution.passes import Passes
from saebench.substitution.readout import Readout

ORIGINAL, PATCHED, SAE, TAX = "original", "patched", "sae", "tax"
VECTORS = 6  # of the residual stream's width, in memory for every token of a batch


@dataclass(frozen=True)
class TaxMeasurement(State):
    """Sums that compare the patched model with the original.

    Channels: ``patched`` and ``sae`` (the patched model with the SAE substituted) with the original
    as P; ``tax.kl`` is KL(patched ‖ original).

    Attributes:
        sums: the channels.
        path: ``resumed``, or ``full`` if the model could not be resumed exactly.
    """

    sums: TokenSums = state(TokenSums.joined)
    path: str = state(one_path)

    def table(self) -> Mapping[str, np.ndarray]:
        """Return the per-sequence sums of every channel."""
        return self.sums.by_sequence


class TaxEngine:
    """Measures SAEs of a patched model against the original model.

    Args:
        host: the patched model, with the original as its ``original``.
        tokens: the sequences.
        batch_size: sequences in a batch; if None, chosen from free memory.
    """

    def __init__(self, host: Host, tokens: TokenSet, *, batch_size: int | None = None) -> None:
        assert host.original is not None
        self._host, self._tokens = host, tokens
        self._passes, self._before = Passes(host), Passes(host.original)
        self._read_out, self._read_reverse = Readout(host.original), Readout(host)
        self._batch_size = batch_size

    def measure(self, subject: Subject, *, progress: Progress) -> TaxMeasurement:
        """Return an SAE's measurement.

        Raises:
            NonFiniteValue: if the SAE's output or a KL is not finite.
        """
        sequences, context = self._tokens.ids.shape
        sums = with_clusters(TokenSums(sequences, context), self._tokens)
        site = site_of(self._host, subject)
        size = self._batch_size or sequences_at_once(self._host, context=context, vectors=VECTORS)
        for rows in cut(sequences, size):
            batch = make_batch(self._tokens, rows, device=self._host.device)
            if batch.counts:
                self._add(batch, subject, sums)
            progress(batch.ids.numel())
        if not all(np.isfinite(v).all() for v in sums.fetch().by_sequence.values()):
            raise NonFiniteValue(f"{subject.source}: the patched model's output is not finite")
        return TaxMeasurement(sums, "resumed" if self._passes.is_exact(site) else "full")

    def _add(self, batch: Batch, subject: Subject, sums: TokenSums) -> None:
        site = site_of(self._host, subject)
        reads = reading_site(self._host, subject, writes=site)
        clean = self._passes.clean(batch.ids, list(dict.fromkeys((site, reads))))
        before = self._before.clean(batch.ids, [site]).final
        assert clean.final is not None
        assert before is not None
        x_hat = subject.reconstruct(read_rows(reads, clean.activations[reads], batch.at)).x_hat
        changed = clean.activations[site].clone()
        write_rows(site, changed, x_hat, batch.at)
        with_sae = self._passes.resume(clean, site, changed[None])[0][batch.at]
        original, patched = before[batch.at], clean.final[batch.at]
        sides = {PATCHED: patched, SAE: with_sae}
        ce, readouts = self._read_out(original, sides, targets=batch.targets)
        _, reverse = self._read_reverse(patched, {TAX: original}, targets=batch.targets)

        def add(channel: str, values: Tensor, mask: Tensor) -> None:
            sums.add(channel, batch.spread(values), mask=mask, rows=batch.rows)

        counted, has_target = batch.counted, batch.has_target & batch.counted
        sums.count("n.scored", counted, rows=batch.rows)
        sums.count("n.targets", has_target, rows=batch.rows)
        add("original.ce", ce, has_target)
        for name, readout in readouts.items():
            add(f"{name}.kl", readout.kl, counted)
            add(f"{name}.ce", readout.ce, has_target)
        add("tax.kl", reverse[TAX].kl, counted)


class TaxMeasurer(Measurer):
    """Measures what a model that was patched for its SAE has lost against the original."""

    def extent(self, targets: Targets) -> Extent:
        """Return the run's sequences; undivided if the model was not patched."""
        original, own = self.bench.host.original, self.bench.extent
        if original is None:
            return super().extent(targets)
        return replace(own, fingerprint=f"{own.fingerprint} {original.record().weights_sha256}")

    def measure(self, targets: Targets, *, progress: ProgressBar) -> Results:
        """Measure each SAE that comes with a patched model."""
        bench = self.bench
        tokens = bench.part(bench.tokens)
        if bench.host.original is None:
            missing = NotApplicable(
                f"tax: the model was not patched: the SAE comes with no {FILE}, or "
                "--sae-host-patch was not given"
            )
            return Results.failed(targets, missing)
        engine = TaxEngine(bench.host, tokens, batch_size=bench.settings.batch_size)
        results, count = Results(), len(targets) * tokens.ids.numel()
        with progress(f"{self.label(targets)}, tax", count) as advance:
            for target in targets:
                try:
                    measurement = engine.measure(target.subject, progress=advance)
                    results.measurements[target.name] = measurement
                except MeasurementError as error:
                    results.failures[target.name] = error
        return results
