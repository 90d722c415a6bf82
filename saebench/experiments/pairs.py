"""Pairs of SAEs in one model: the first one's effect on the second, and both together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saebench.data.tokens import TokenSet
from saebench.errors import NotApplicable
from saebench.experiments.base import Extent, Measurer, Results, Targets
from saebench.measures.resources import CLEAN, FOLD, NOISE, READOUT, RESUME, Stages
from saebench.measures.sums import TokenSums
from saebench.progress import ProgressBar
from saebench.records.case import joined
from saebench.subjects.depth import depth
from saebench.subjects.hooks import Site
from saebench.subjects.host import Host
from saebench.subjects.sae import Subject
from saebench.substitution.batches import read_rows, sequences_at_once, write_rows
from saebench.substitution.engine import Progress
from saebench.substitution.gathering import site_of
from saebench.substitution.measurement import SCORED, PairMeasurement, with_clusters
from saebench.substitution.noise import NoiseSource
from saebench.substitution.passes import CleanPass, Passes
from saebench.substitution.readout import read_out

VERSIONS = ("sae", "eps_random")
Pair = tuple[str, str]
Rows = dict[str, Float[Tensor, "tokens"]]


@dataclass(frozen=True)
class _Placed:
    """An SAE at its site in the model."""

    subject: Subject
    site: Site

    @property
    def noise_name(self) -> str:
        """The name of the noise at this site; the noise of two sites must be independent."""
        head = "" if self.site.head is None else f".{self.site.head}"
        return f"eps_random@{self.site.hook}{head}"


@dataclass(frozen=True)
class _Batch:
    """A batch's tokens, and the model's clean pass over them."""

    rows: slice
    first: int
    counted: Bool[Tensor, "batch pos"]
    clean: CleanPass

    @cached_property
    def place(self) -> tuple[Int[Tensor, "tokens"], Int[Tensor, "tokens"]]:
        """The sequence index in the run and the position of each counted token."""
        sequence, position = self.counted.nonzero(as_tuple=True)
        return sequence + self.first, position

    def times(self, versions: int) -> Bool[Tensor, "versions*batch pos"]:
        """Return the mask of several concatenated versions of the batch."""
        return self.counted.repeat(versions, 1)

    def spread(self, values: Tensor) -> Float[Tensor, "batch pos"]:
        """Put one value for each counted token at its row and position; zero elsewhere."""
        out = torch.zeros(self.counted.shape, dtype=values.dtype, device=values.device)
        out[self.counted] = values
        return out


@dataclass(frozen=True)
class _Reconstructed:
    """An SAE's quantities for some activations, and the activations under each substitution."""

    quantities: Rows
    changed: dict[str, Float[Tensor, "tokens width"]]


class PairEngine:
    """Measures pairs of SAEs of one model on one set of tokens.

    One clean pass is used for all pairs, and one pass with an SAE substituted for all pairs in
    which it is the first: each further pair costs the blocks after its second SAE.

    Args:
        host: the model.
        tokens: the sequences.
        seed: root seed of all noise.
        batch_size: sequences in a batch; if None, chosen from free memory.
    """

    def __init__(
        self, host: Host, tokens: TokenSet, *, seed: int, batch_size: int | None = None
    ) -> None:
        self.host = host
        self.tokens = tokens
        self.seed = seed
        self.stages = Stages(host.device)
        self._batch_size = batch_size
        self._passes = Passes(host)

    def measure(
        self, pairs: Sequence[tuple[Subject, Subject]], *, progress: Progress
    ) -> dict[Pair, PairMeasurement]:
        """Return each pair's measurement by its ids.

        Args:
            pairs: SAEs, the first before the second in the model.
            progress: called with the number of tokens just finished.
        """
        placed = {s.id: _Placed(s, site_of(self.host, s)) for pair in pairs for s in pair}
        chosen = [(first.id, second.id) for first, second in pairs]
        n, context = self.tokens.ids.shape
        sums = {pair: with_clusters(TokenSums(n, context), self.tokens) for pair in chosen}
        size = self._sequences_at_once(len(placed))
        for batch in self._batches([p.site for p in placed.values()], size):
            if batch.counted.any():
                self._measure_batch(batch, placed, sums)
            progress(batch.counted.numel())
        return {pair: self._finished(pair, sums[pair], placed) for pair in chosen}

    def _sequences_at_once(self, saes: int) -> int:
        if self._batch_size is not None:
            return self._batch_size
        context = self.tokens.ids.shape[1]
        return sequences_at_once(self.host, context=context, vectors=len(VERSIONS) * saes)

    def _batches(self, sites: Sequence[Site], size: int) -> Iterator[_Batch]:
        for start in range(0, len(self.tokens.ids), size):
            rows = slice(start, min(start + size, len(self.tokens.ids)))
            ids, counted = (
                table[rows].to(self.host.device) for table in (self.tokens.ids, self.tokens.counted)
            )
            with self.stages(CLEAN):
                clean = self._passes.clean(ids, list(dict.fromkeys(sites)))
            yield _Batch(rows, self.tokens.first + start, counted, clean)

    def _measure_batch(
        self, batch: _Batch, placed: Mapping[str, _Placed], sums: Mapping[Pair, TokenSums]
    ) -> None:
        clean, alone = {}, {}
        together: dict[Pair, Rows] = {}
        for name, first in placed.items():
            x = read_rows(first.site, batch.clean.activations[first.site], batch.counted)
            clean[name] = self._reconstructed(first, x, batch)
            seconds = [placed[j] for i, j in sums if i == name]
            alone[name], of_pairs = self._with_first(first, clean[name], seconds, batch)
            together |= {(name, j): rows for j, rows in of_pairs.items()}
        for (i, j), pair_sums in sums.items():
            rows = {f"clean.{what}": v for what, v in clean[j].quantities.items()}
            rows |= {f"{channel}_first": v for channel, v in alone[i].items()}
            rows |= {f"{channel}_second": v for channel, v in alone[j].items()}
            with self.stages(FOLD):
                self._fold(pair_sums, batch, rows | together[i, j])

    def _reconstructed(
        self, placed: _Placed, x: Float[Tensor, "tokens width"], batch: _Batch
    ) -> _Reconstructed:
        """Reconstruct activations; ``x`` may be several concatenated versions of the tokens."""
        reconstruction = placed.subject.reconstruct(x, stages=self.stages)
        error = (x - reconstruction.x_hat).double()
        squared = error.square().sum(dim=-1)
        with self.stages(NOISE):
            noise = NoiseSource(self.seed, placed.noise_name).normal(*batch.place, d=x.shape[-1])
        random = (noise / noise.norm(dim=-1, keepdim=True)).repeat(len(x) // len(noise), 1)
        size = squared.sqrt()[:, None].to(x.dtype)
        quantities = {
            "squared_error": squared,
            "l0": reconstruction.l0,
            "norm": x.double().norm(dim=-1),
        }
        return _Reconstructed(
            quantities, {"sae": reconstruction.x_hat, "eps_random": x + size * random}
        )

    def _with_first(
        self,
        first: _Placed,
        reconstructed: _Reconstructed,
        seconds: Sequence[_Placed],
        batch: _Batch,
    ) -> tuple[Rows, dict[str, Rows]]:
        """Substitute the first SAE alone, and then together with each second one.

        Returns:
            The KL of the first SAE alone; by second SAE its quantities and the KL of both.
        """
        base = batch.clean.activations[first.site]
        stacked = base.expand(len(VERSIONS), *base.shape).clone()
        for place, version in zip(stacked, VERSIONS, strict=True):
            write_rows(first.site, place, reconstructed.changed[version], batch.counted)
        sites = list(dict.fromkeys(second.site for second in seconds))
        with self.stages(RESUME):
            after = self._passes.resume_keeping(batch.clean, first.site, stacked, sites)
        assert after.final is not None
        hidden = self._by_version(after.final, batch, "kl")
        of_pairs: dict[str, Rows] = {}
        for second in seconds:
            of_pairs[second.subject.id], final = self._with_second(second, after, batch)
            hidden |= self._by_version(final, batch, f"{second.subject.id}/kl")
        kl = self._kl(hidden, batch)
        for name, rows in of_pairs.items():
            rows |= {f"{v}.kl_together": kl[f"{v}.{name}/kl"] for v in VERSIONS}
        return {f"{v}.kl": kl[f"{v}.kl"] for v in VERSIONS}, of_pairs

    def _with_second(
        self, second: _Placed, after: CleanPass, batch: _Batch
    ) -> tuple[Rows, Float[Tensor, "versions*batch pos d"]]:
        """Return the second SAE's quantities on x′, and the final states with both substituted."""
        activation, counted = after.activations[second.site], batch.times(len(VERSIONS))
        reconstructed = self._reconstructed(
            second, read_rows(second.site, activation, counted), batch
        )
        tokens = len(counted.nonzero()) // len(VERSIONS)
        parts = {
            what: dict(zip(VERSIONS, values.split(tokens), strict=True))
            for what, values in (reconstructed.quantities | reconstructed.changed).items()
        }
        # The version with the first SAE gets the second SAE, the version with noise gets noise.
        both = torch.cat([parts[version][version] for version in VERSIONS])
        changed = activation.clone()
        write_rows(second.site, changed, both, counted)
        with self.stages(RESUME):
            final = self._passes.resume(after, second.site, changed[None])[0]
        rows = {
            f"{v}.{what}": parts[what][v] for what in reconstructed.quantities for v in VERSIONS
        }
        return rows, final

    def _by_version(self, final: Tensor, batch: _Batch, what: str) -> dict[str, Tensor]:
        parts = final.unflatten(0, (len(VERSIONS), -1))
        return {f"{v}.{what}": f[batch.counted] for v, f in zip(VERSIONS, parts, strict=True)}

    def _kl(self, hidden: Mapping[str, Tensor], batch: _Batch) -> Rows:
        assert batch.clean.final is not None
        targets = batch.clean.ids.roll(-1, dims=1)[batch.counted]
        clean = batch.clean.final[batch.counted]
        with self.stages(READOUT):
            readouts = read_out(self.host, clean, hidden, targets=targets)[1]
        return {name: readout.kl for name, readout in readouts.items()}

    def _fold(self, sums: TokenSums, batch: _Batch, rows: Rows) -> None:
        sums.count(SCORED, batch.counted, rows=batch.rows)
        for channel, values in rows.items():
            sums.add(channel, batch.spread(values), mask=batch.counted, rows=batch.rows)

    def _finished(
        self, pair: Pair, sums: TokenSums, placed: Mapping[str, _Placed]
    ) -> PairMeasurement:
        exact = all(self._passes.is_exact(placed[name].site) for name in pair)
        hooks = (placed[pair[0]].site.hook, placed[pair[1]].site.hook)
        return PairMeasurement(sums.fetch(), pair, hooks, "resumed" if exact else "full")


class PairsMeasurer(Measurer):
    """Measures pairs of SAEs, the first before the second in the model."""

    def extent(self, targets: Targets) -> Extent:  # noqa: ARG002
        """Return the run's sequences."""
        return self.bench.extent

    def measure(self, targets: Targets, *, progress: ProgressBar) -> Results:
        """Measure all pairs with one clean pass; targets that are not a pair fail."""
        bench, results = self.bench, Results()
        pairs: list[tuple[Subject, Subject]] = []
        for target in targets:
            reason = _no_pair(target.subjects)
            if reason:
                results.failures[target.name] = NotApplicable(reason)
            else:
                pairs.append((target.subjects[0], target.subjects[1]))
        if not pairs:
            return results
        tokens, settings = bench.part(bench.tokens), bench.settings
        engine = PairEngine(bench.host, tokens, seed=settings.seed, batch_size=settings.batch_size)
        label = f"{len(pairs)} pairs of SAEs on {bench.host.name}"
        with progress(label, tokens.ids.numel()) as advance:
            by_pair = engine.measure(pairs, progress=advance)
        bench.count_cost(self.experiment, targets, engine.stages, tokens=tokens.ids)
        return results | Results.of({joined(ids): each for ids, each in by_pair.items()})


def _no_pair(subjects: Sequence[Subject]) -> str | None:
    """Return why these SAEs are not a pair with the first before the second; None if they are."""
    if len(subjects) < 2:
        return (
            f"propagation: {subjects[0].id} is alone at its place in the model; "
            "give an SAE of another layer of the same model too: --sae SPEC"
        )
    for subject in subjects:
        if subject.metadata.input_hook is not None:
            return (
                f"propagation: {subject.id} is a transcoder, which reads elsewhere than it writes"
            )
    places = [depth(subject.metadata.hook) for subject in subjects]
    if places[0] is not None and places[1] is not None and places[0] >= places[1]:
        one, two = (f"{s.id} ({s.metadata.hook})" for s in subjects)
        return f"propagation: {one} does not lie before {two}; give them in that order: --sae SPEC"
    return None
