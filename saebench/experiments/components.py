"""Each SAE and principal components in several numbers, on the run's first sequences."""

from collections.abc import Sequence

from saebench.data.tokens import TokenSet
from saebench.experiments.base import Extent, Measurer, Results, Target, Targets
from saebench.experiments.control_saes import first_sequences
from saebench.measures.names import components
from saebench.progress import ProgressBar
from saebench.substitution.engine import Engine
from saebench.substitution.gathering import reading_site, site_of

LEAST = 0.25  # of the SAE's active features: the curve's first number of components


def grid(l0: float, width: int) -> list[int]:
    """Return the numbers of components of a curve: a quarter of l0, doubled up to the width.

    Example:
        >>> grid(10.0, 64)
        [3, 5, 10, 20, 40, 64]
    """
    sizes, size = [], LEAST * max(l0, 1.0)
    while size < width:
        sizes.append(max(1, int(size + 0.5)))
        size *= 2
    return sorted({*sizes, width})


class ComponentsMeasurer(Measurer):
    """Measures the KL of principal components, the same number at every token."""

    def extent(self, targets: Targets) -> Extent:
        """Return the first sequences; their width counts about eight passes for each SAE."""
        first = first_sequences(self.bench.tokens)
        run = self.bench.extent  # whose tokens say which sequences are the first
        return Extent(len(first.ids), 8 * len(targets) * run.width, run.fingerprint)

    def corpora(self, targets: Targets) -> list[TokenSet]:  # noqa: ARG002
        """Return the first sequences."""
        return [first_sequences(self.bench.tokens)]

    def measure(self, targets: Targets, *, progress: ProgressBar) -> Results:
        """Measure the SAEs and their numbers of components with one clean pass."""
        bench, first = self.bench, first_sequences(self.bench.tokens)
        engine = bench.engine(first)
        engine.references_at(bench.sites(targets))  # one pass for all sites
        wanted = [(t.subject, ["sae", *_components_of(t, engine)]) for t in targets]
        ids = engine.tokens.ids
        with progress(f"{self.label(targets)}, components", ids.numel()) as advance:
            by_name = engine.measure(wanted, progress=advance)
        bench.count_cost(self.experiment, targets, engine.stages, tokens=ids)
        return Results.of(by_name)


def _components_of(target: Target, engine: Engine) -> Sequence[str]:
    """Return the interventions of an SAE's curve, around its active features on the bank."""
    site = site_of(engine.host, target.subject)
    reads = reading_site(engine.host, target.subject, writes=site)
    statistics = engine.references_at([site, reads])
    l0 = float(target.subject.reconstruct_many(statistics[reads].bank).l0.mean())
    return [components(k) for k in grid(l0, site.width)]
