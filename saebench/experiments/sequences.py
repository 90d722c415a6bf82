"""All counted tokens of the run's sequences, or of longer ones, substituted."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from saebench.errors import NotApplicable
from saebench.experiments.base import (
    ClaimedTexts,
    Extent,
    LongTexts,
    Measurer,
    Results,
    Target,
    Targets,
)
from saebench.experiments.texts import bin_edges, edges_from_both_ends
from saebench.subjects.sae import Subject
from saebench.substitution.engine import Engine
from saebench.substitution.measurement import Measurement

if TYPE_CHECKING:
    from saebench.data.tokens import TokenSet
    from saebench.progress import ProgressBar


class SequencesMeasurer(Measurer):
    """Measures SAEs on the run's sequences."""

    def extent(self, targets: Targets) -> Extent:  # noqa: ARG002
        """Return the run's sequences."""
        return self.bench.extent

    def corpora(self, targets: Targets) -> "list[TokenSet]":  # noqa: ARG002
        """Return the run's sequences."""
        return [self.bench.tokens]

    def measure(self, targets: Targets, *, progress: "ProgressBar") -> Results:
        """Measure all SAEs with one clean pass."""
        engine = self.bench.places.engine
        label = self.label(targets)
        return self._measured(engine, targets, label=label, progress=progress)

    def _measured(
        self,
        engine: Engine,
        targets: Targets,
        *,
        label: str,
        progress: "ProgressBar",
        edges: dict[str, tuple[int, ...]] | None = None,
    ) -> Results:
        keep = {target.name: target.keep for target in targets}
        probes = {target.name: target.probes for target in targets}
        wanted = [(target.subject, target.interventions) for target in targets]
        ids = engine.tokens.ids
        with progress(label, ids.numel()) as advance:
            by_name = engine.measure(
                wanted, progress=advance, keep=keep, edges=edges, probes=probes
            )
        self.bench.count_cost(self.experiment, targets, engine.stages, tokens=ids)
        return Results.of(by_name)


class LongTextsMeasurer(SequencesMeasurer):
    """Measures each SAE beyond its training context; SAEs of one context share a clean pass."""

    experiment: LongTexts | ClaimedTexts

    def tokens_of(self, subject: Subject) -> "TokenSet":
        """Return the sequences that an SAE is measured on.

        Raises:
            NotApplicable: if there are none.
        """
        return self.bench.readings.long(subject)

    def edges_of(self, subject: Subject, context: int) -> tuple[int, ...]:
        """Return the bins of positions that are summed by themselves."""
        return bin_edges(self.bench.readings.trained_on(subject), context)

    def extent(self, targets: Targets) -> Extent:
        """Return the most sequences, and the longest, that any of the SAEs has."""
        sets = self._sets(targets)
        sizes = [each.ids.shape for each in sets] or [(0, 1)]
        fingerprint = " ".join(each.fingerprint for each in sets)
        return Extent(max(n for n, _ in sizes), max(t for _, t in sizes), fingerprint)

    def corpora(self, targets: Targets) -> "list[TokenSet]":
        """Return the token sets of the SAEs' training contexts."""
        return list({each.fingerprint: each for each in self._sets(targets)}.values())

    def measure(self, targets: Targets, *, progress: "ProgressBar") -> Results:
        """Measure all SAEs, with one clean pass for each training context."""
        results = Results()
        by_context: dict[int, list[Target]] = {}
        for target in targets:
            try:
                context = self.tokens_of(target.subject).ids.shape[1]
            except NotApplicable as error:
                results.failures[target.name] = error
            else:
                by_context.setdefault(context, []).append(target)
        for context, some in by_context.items():
            results |= self._of_one_context(targets, some, context, progress)
        return results

    def _of_one_context(
        self, targets: Targets, some: Sequence[Target], context: int, progress: "ProgressBar"
    ) -> Results:
        tokens = self.tokens_of(some[0].subject)
        if tokens.fingerprint != self.bench.tokens.fingerprint:
            self.bench.data[f"{self.experiment}/{context}"] = self.bench.readings.record(tokens)
        edges = {t.name: self.edges_of(t.subject, context) for t in some}
        label = f"{self.label(targets)}, {context} tokens"
        engine = self.bench.engine(tokens)
        return self._measured(engine, some, label=label, progress=progress, edges=edges)

    def _sets(self, targets: Targets) -> "list[TokenSet]":
        sets = []
        for target in targets:
            with suppress(NotApplicable):
                sets.append(self.tokens_of(target.subject))
        return sets


class ClaimedTextsMeasurer(LongTextsMeasurer):
    """Measures each SAE on sequences as long as it claims to work on."""

    def tokens_of(self, subject: Subject) -> "TokenSet":
        """Return sequences of the claimed length, as far as the texts reach."""
        return self.bench.readings.claimed(subject)

    def edges_of(self, subject: Subject, context: int) -> tuple[int, ...]:  # noqa: ARG002
        """Return bins that double from both ends of the context."""
        return edges_from_both_ends(context)

    def measure(self, targets: Targets, *, progress: "ProgressBar") -> Results:
        """Measure all SAEs; each measurement says what its SAE claims."""
        results = super().measure(targets, progress=progress)
        for target in targets:
            measurement = results.measurements.get(target.name)
            if isinstance(measurement, Measurement):
                claim = self.bench.readings.claim(target.subject)
                results.measurements[target.name] = replace(measurement, claimed=claim)
        return results
