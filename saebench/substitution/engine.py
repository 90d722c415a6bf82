"""One run over the tokens: the clean pass once, every SAE and intervention resumed from it."""

from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice

from jaxtyping import Float
from torch import Tensor

from saebench.data.tokens import TokenSet, token_text
from saebench.errors import HookError, MeasurementError, OptionError, UndefinedDirection
from saebench.measures.divergence import RowReadout
from saebench.measures.names import INDEPENDENT_OF_SAE, INTERVENTIONS, OF_THE_CORPUS, Probe
from saebench.measures.resources import (
    CLEAN,
    FOLD,
    NOISE,
    READOUT,
    RESUME,
    Stages,
    is_out_of_memory,
)
from saebench.measures.sums import TokenSums
from saebench.subjects.hooks import Site, find_site
from saebench.subjects.host import Host
from saebench.subjects.sae import Reconstruction, Subject
from saebench.substitution.batches import (
    AT_ONCE,
    Batch,
    Doubts,
    Places,
    cut,
    halves,
    make_batch,
    read_rows,
    sequences_at_once,
    tokens_a_pass,
    write_rows,
)
from saebench.substitution.gathering import Gathered, check_first_look
from saebench.substitution.interventions import Tokens, substitute
from saebench.substitution.measurement import Measurement, Spread, TokenMeasurement, with_clusters
from saebench.substitution.passes import CleanPass, Passes
from saebench.substitution.reading import reading_site
from saebench.substitution.readout import Changed, Readout, Repeated, every_row
from saebench.substitution.reference import Reference, ReferenceSums

REFERENCE_SEQUENCES = 512

Progress = Callable[[int], object]
Here = Sequence[tuple[Gathered, tuple[Tensor, Reconstruction]]]
Probed = Mapping[str, Mapping[Probe, Tensor]]


def site_of(host: Host, subject: Subject) -> Site:
    """Return the SAE's place in the model: where it is substituted.

    Raises:
        HookError: where the model has no such place, or it is of another width.
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


class Engine:
    """Measures SAEs of one model on one set of tokens.

    Args:
        host: the model.
        tokens: the sequences.
        seed: root seed of all noise.
        batch_size: sequences at once; chosen from free memory where None. Where memory runs out
            all the same, it is halved, and the batch done again.
        corpus: where the tokens are a part of a run's, those of the whole run: its first sequences
            are what interventions know of the corpus, whatever the part.
        references: what is known of the corpus at a site, kept by whoever measures several parts.

    Attributes:
        stages: where the time of the last measurement went.
    """

    def __init__(
        self,
        host: Host,
        tokens: TokenSet,
        *,
        seed: int,
        batch_size: int | None = None,
        corpus: TokenSet | None = None,
        references: dict[Site, Reference] | None = None,
    ) -> None:
        self.host = host
        self.tokens = tokens
        self.seed = seed
        self.stages = Stages(host.device)
        self._corpus = tokens if corpus is None else corpus
        self._batch_size = batch_size
        self._passes = Passes(host)
        self._read_out = Readout(host)
        self._references = {} if references is None else references

    def measure(
        self,
        subjects: Sequence[tuple[Subject, Sequence[str]]],
        *,
        progress: Progress,
        edges: Mapping[str, tuple[int, ...]] | None = None,
        keep: Mapping[str, Sequence[str]] | None = None,
        probes: Mapping[str, Sequence[Probe]] | None = None,
    ) -> dict[str, Measurement | MeasurementError]:
        """Return each SAE's measurement by its id, or why it cannot be measured.

        Args:
            subjects: the SAEs, each with the interventions it needs.
            progress: called with the number of tokens just finished.
            edges: for SAEs by id, the positions between which sums are kept apart.
            keep: for SAEs by id, the channels whose values are kept token by token.
            probes: for SAEs by id, further channels to read out of each pass.
        """
        self.stages = Stages(self.host.device)
        sequences, context = self.tokens.ids.shape
        apart, kept = edges or {}, keep or {}
        gathering = []
        for subject, names in subjects:
            also = (apart.get(subject.id, ()), tuple(kept.get(subject.id, ())))
            sums = TokenSums(sequences, context, *also, first=self.tokens.first)
            with_clusters(sums, self.tokens)
            site = site_of(self.host, subject)
            reads = reading_site(self.host, subject, writes=site)
            mine = tuple((probes or {}).get(subject.id, ()))
            gathering.append(Gathered(subject, site, reads, list(names), sums, probes=mine))
        needed = [g for g in gathering if self._needs_reference(g)]
        self._gather_references(site for g in needed for site in (g.site, g.reads))
        for g in gathering:
            self._look_at_bank(g)
        failed: dict[str, Measurement | MeasurementError] = {}
        todo = deque(cut(sequences, self._sequences_at_once(gathering)))
        while todo:
            batch = make_batch(self.tokens, todo.popleft(), device=self.host.device)
            try:
                # Tokens that do not count leave nothing to measure.
                if batch.counts:
                    ordered = batch.by_position() if batch.alike else batch
                    failed |= self._measure_batch(ordered, gathering)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or len(batch.ids) == 1:
                    raise
                smaller = (half for rows in (batch.rows, *todo) for half in halves(rows))
                todo = deque(half for half in smaller if half.start < half.stop)
                continue
            progress(batch.ids.numel())
        return failed | {g.subject.id: self._finished(g) for g in gathering}

    def reference(self, site: Site) -> Reference:
        """Return corpus statistics at a site, from the run's first sequences."""
        return self.references_at([site])[site]

    def references_at(self, sites: Sequence[Site]) -> dict[Site, Reference]:
        """Return corpus statistics at sites, from the run's first sequences, in one pass."""
        self._gather_references(sites)
        return {site: self._references[site] for site in sites}

    def _needs_reference(self, g: Gathered) -> bool:
        many = len(self._corpus.ids) > REFERENCE_SEQUENCES
        return many or self.tokens.is_part or not set(g.interventions).isdisjoint(OF_THE_CORPUS)

    def _gather_references(self, sites: Iterable[Site]) -> None:
        """Gather those that are missing, in one pass for all of them."""
        sites = [site for site in dict.fromkeys(sites) if site not in self._references]
        if not sites:
            return
        first = self._corpus.counted[:REFERENCE_SEQUENCES]
        gathered = {s: ReferenceSums(s.width, tokens=int(first.sum())) for s in sites}
        at_once = sequences_at_once(self.host, context=first.shape[1], kept=2 * len(sites))
        for rows in cut(len(first), self._batch_size or at_once):
            batch = make_batch(self._corpus, rows, device=self.host.device)
            with self.stages(CLEAN):
                clean = self._passes.clean(batch.ids, sites, stop_early=True)
            for site, sums in gathered.items():
                x = read_rows(site, clean.activations[site], batch.at)
                sums.update(x, batch.sequence, batch.position)
        for site, sums in gathered.items():
            self._references[site] = sums.compute(self.host.device)

    def _look_at_bank(self, g: Gathered) -> None:
        if "error_shuffled" in g.interventions:
            # Every site's bank is of the same tokens.
            read = self._references[g.reads].bank
            found = g.subject.reconstruct(read, stages=self.stages)
            g.bank_errors = self._references[g.site].bank - found.x_hat

    def _sequences_at_once(self, gathering: Sequence[Gathered]) -> int:
        if self._batch_size is not None:
            return self._batch_size
        kept = 2 + sum(2 + len(g.interventions) for g in gathering)
        return sequences_at_once(self.host, context=self.tokens.ids.shape[1], kept=kept)

    def _measure_batch(
        self, batch: Batch, gathering: list[Gathered]
    ) -> dict[str, Measurement | MeasurementError]:
        """Add a batch to the sums; drop, and return, the SAEs that cannot be measured.

        Everything is computed before anything is added: a batch that runs out of memory leaves
        no trace.
        """
        sites = dict.fromkeys(site for g in gathering for site in (g.site, g.reads))
        with self.stages(CLEAN):
            clean = self._passes.clean(batch.ids, list(sites))
        assert clean.final is not None
        made = {g.subject.id: self._reconstructed(g, batch, clean) for g in gathering}
        failed = self._first_look(batch, made, gathering)
        doubts = Doubts(later=self.host.device.type != "cpu")
        ce, readouts, probed = self._substituted(batch, clean, made, gathering, doubts)
        if doubts.any():
            ce, readouts, probed = self._substituted(batch, clean, made, gathering, AT_ONCE)
        with self.stages(FOLD):
            for g in gathering:
                g.fold_reconstruction(batch, *made[g.subject.id])
                mine = {name: readouts[_key(g, name)] for name in g.interventions}
                g.fold_readouts(batch, ce, mine)
                g.fold_probes(batch, probed[g.subject.id])
        return failed

    def _substituted(
        self,
        batch: Batch,
        clean: CleanPass,
        made: Mapping[str, tuple[Tensor, Reconstruction]],
        gathering: list[Gathered],
        doubts: Doubts,
    ) -> tuple[Float[Tensor, "tokens"], dict[str, RowReadout], Probed]:
        """Return the clean cross-entropy, what every intervention does, and what probes read."""
        assert clean.final is not None
        hidden: dict[str, Changed] = {}
        for site in dict.fromkeys(g.site for g in gathering):
            here = [(g, made[g.subject.id]) for g in gathering if g.site == site]
            hidden |= self._resumed(site, batch, clean, here, doubts)
        with self.stages(READOUT):
            final = clean.final[batch.at]
            ce, readouts = self._read_out(final, hidden, targets=batch.targets, doubts=doubts)
            probed = {g.subject.id: _probed(g, made, final, hidden) for g in gathering}
        return ce, readouts, probed

    def _reconstructed(
        self, g: Gathered, batch: Batch, clean: CleanPass
    ) -> tuple[Float[Tensor, "tokens width"], Reconstruction]:
        x = read_rows(g.site, clean.activations[g.site], batch.at)
        read = x if g.reads == g.site else read_rows(g.reads, clean.activations[g.reads], batch.at)
        return x, g.subject.reconstruct(read, stages=self.stages)

    def _first_look(
        self,
        batch: Batch,
        made: Mapping[str, tuple[Tensor, Reconstruction]],
        gathering: list[Gathered],
    ) -> dict[str, Measurement | MeasurementError]:
        """Prepare the SAEs that are new, and drop those that plainly cannot be measured."""
        failed: dict[str, Measurement | MeasurementError] = {}
        for g in [g for g in gathering if g.spread is None]:
            x, found = made[g.subject.id]
            try:
                check_first_look(g.subject, x, found.x_hat)
            except MeasurementError as error:
                failed[g.subject.id] = error
                gathering.remove(g)
            g.spread = self._spread(g.site, x[batch.at[0] == 0])
        return failed

    def _spread(self, site: Site, first_sequence: Float[Tensor, "tokens d"]) -> Spread:
        sequences = len(self.tokens.ids)
        few = len(self._corpus.ids) <= REFERENCE_SEQUENCES
        if self.tokens.is_part or not few:
            centre = self._references[site].mean
            return Spread(sequences, centre, by_sequence=few)
        # Of no tokens the mean is NaN; any fixed vector will do.
        centre = first_sequence.double().mean(dim=0).nan_to_num()
        return Spread(sequences, centre, by_sequence=True)

    def _substitutions(
        self, batch: Batch, here: Here, names: Container[str], doubts: Doubts
    ) -> Iterator[tuple[str, Float[Tensor, "tokens width"]]]:
        """Give x′ of the counted tokens for these interventions at one site."""
        done = set()
        for g, (x, found) in here:
            place = (batch.sequence, batch.position, self._references.get(g.site), g.bank_errors)
            tokens = Tokens(x, found.x_hat, *place, self.seed, doubts)
            wanted = [name for name in g.interventions if name in names]
            for name in [name for name in wanted if _key(g, name) not in done]:
                done.add(_key(g, name))
                try:
                    with self.stages(NOISE):
                        changed = substitute(name, tokens)
                except UndefinedDirection as error:
                    g.drop(name, error)
                else:
                    yield _key(g, name), changed

    def _resumed(
        self, site: Site, batch: Batch, clean: CleanPass, here: Here, doubts: Doubts
    ) -> dict[str, Changed]:
        """Return the final hidden states of the counted tokens under every x′ at one site.

        An x′ that is the same at every token gives the same in all sequences that are alike: it
        is run in one of them.
        """
        once = INDEPENDENT_OF_SAE if batch.alike and self._passes.is_all(site) else ()
        each = [name for name in INTERVENTIONS if name not in once]
        hidden: dict[str, Changed] = {}
        substitutions = self._substitutions(batch, here, each, doubts)
        at_once = max(1, tokens_a_pass(self.host) // batch.ids.numel())
        while some := dict(islice(substitutions, at_once)):
            hidden |= self._final(site, clean, some, batch.at)
        times = len(batch.ids)
        alike = {key: x[::times] for key, x in self._substitutions(batch, here, once, doubts)}
        if alike:
            row, position = batch.at
            final = self._final(site, clean.first, alike, (row[::times], position[::times]))
            hidden |= {key: Repeated(states, times) for key, states in final.items()}
        return hidden

    def _final(
        self, site: Site, clean: CleanPass, some: Mapping[str, Tensor], at: Places
    ) -> dict[str, Float[Tensor, "tokens d"]]:
        with self.stages(RESUME):
            base = clean.activations[site]
            stacked = base.expand(len(some), *base.shape).clone()
            for place, changed in zip(stacked, some.values(), strict=True):
                write_rows(site, place, changed, at)
            final = self._passes.resume(clean, site, stacked)
            return {key: states[at] for key, states in zip(some, final, strict=True)}

    def _finished(self, g: Gathered) -> Measurement | MeasurementError:
        if g.spread is None:
            return MeasurementError(f"{g.subject.source}: no token of these sequences counts")
        path = "resumed" if self._passes.is_exact(g.site) else "full"
        kept = self._per_token(g.sums) if g.sums.keep else None
        return g.finished(path, per_token=kept, part=self.tokens.is_part)

    def _per_token(self, sums: TokenSums) -> TokenMeasurement:
        first = slice(0, sums.kept_sequences)
        ids, counted = self.tokens.ids[first].numpy(), self.tokens.counted[first].numpy()
        return TokenMeasurement(
            sums.fetch().by_token, ids, counted, partial(token_text, self.host.tokenizer)
        )


def _key(g: Gathered, name: str) -> str:
    """Name a substitution; those that do not depend on the SAE are shared at their site."""
    owner = str(g.site) if name in INDEPENDENT_OF_SAE else g.subject.id
    return f"{owner}/{name}"


def _probed(
    g: Gathered,
    made: Mapping[str, tuple[Tensor, Reconstruction]],
    final: Float[Tensor, "tokens d"],
    hidden: Mapping[str, Changed],
) -> dict[Probe, Float[Tensor, "tokens"]]:
    """Return what an SAE's probes read of a batch, one value for each counted token.

    Raises:
        OptionError: where a probe gives anything else.
    """
    x, found = made[g.subject.id]
    values: dict[Probe, Tensor] = {}
    for probe in g.probes:
        if probe.intervention in g.failures:
            continue
        changed = every_row(hidden[_key(g, probe.intervention)])
        value = probe.load()(x, found.x_hat, final, changed)
        if not isinstance(value, Tensor) or value.shape != (len(x),):
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise OptionError(
                f"probe {probe.name!r} ({probe.function}): expected one value for each of "
                f"{len(x)} tokens, found {got}"
            )
        values[probe] = value
    return values
