"""All counted tokens of the run's sequences, or of longer ones, substituted."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from saebench.errors import NotApplicable
from saebench.experiments.base import Extent, LongTexts, Measurer, Results, Target, Targets
from saebench.experiments.texts import bin_edges
from saebench.substitution.engine import Engine

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

    experiment: LongTexts

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
                context = self.bench.readings.long(target.subject).ids.shape[1]
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
        tokens = self.bench.readings.long(some[0].subject)
        self.bench.data[f"{self.experiment}/{context}"] = self.bench.readings.record(tokens)
        trained = {t.name: t.subject.metadata.training_context or 1 for t in some}
        edges = {name: bin_edges(each, context) for name, each in trained.items()}
        label = f"{self.label(targets)}, {context} tokens"
        engine = self.bench.engine(tokens)
        return self._measured(engine, some, label=label, progress=progress, edges=edges)

    def _sets(self, targets: Targets) -> "list[TokenSet]":
        return list(self.bench.readings.long_sets(target.subject for target in targets))
