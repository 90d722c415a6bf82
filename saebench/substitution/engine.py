"""The substitution engine: one clean pass, every SAE and intervention resumed from it."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import islice

from jaxtyping import Float
from torch import Tensor

from saebench.data.tokens import TokenSet, token_text
from saebench.errors import MeasurementError, OptionError, UndefinedDirection
from saebench.measures.divergence import RowReadout
from saebench.measures.names import (
    AT_ERROR_RADIUS,
    CURRENT_TOKEN,
    DICTIONARY,
    INDEPENDENT_OF_SAE,
    RANDOM_DICTIONARY,
    SKIP_ONLY,
    STRATA,
    Probe,
    is_pca,
    needs_corpus,
)
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
from saebench.subjects.hooks import Site
from saebench.subjects.host import Host
from saebench.subjects.sae import Reconstruction, Subject
from saebench.substitution.batches import (
    IMMEDIATE,
    Batch,
    DeferredChecks,
    Places,
    cut,
    halves,
    make_batch,
    read_rows,
    sequences_at_once,
    tokens_a_pass,
    write_rows,
)
from saebench.substitution.current_token import current_token_ce, prefix_of
from saebench.substitution.feature_use import DictionaryWatch
from saebench.substitution.gathering import (
    Gathered,
    bank_errors,
    check_first_look,
    reading_site,
    site_of,
)
from saebench.substitution.interventions import Tokens, substitute
from saebench.substitution.measurement import Measurement, Spread, TokenMeasurement, with_clusters
from saebench.substitution.passes import CleanPass, Passes
from saebench.substitution.pursuit import PursuitErrors
from saebench.substitution.readout import Changed, Readout, Repeated, every_row
from saebench.substitution.reference import Reference, ReferenceSums
from saebench.substitution.token_strata import Strata, StrataSums

REFERENCE_SEQUENCES = 512

Progress = Callable[[int], object]
AtSite = Sequence[tuple[Gathered, tuple[Tensor, Reconstruction]]]
"""The SAEs of one site, each with its activations and their reconstruction."""
Probed = Mapping[str, Mapping[Probe, Tensor]]


class Engine:
    """Measures SAEs of one model on one set of tokens.

    Args:
        host: the model.
        tokens: the sequences.
        seed: root seed of all noise.
        batch_size: sequences in a batch; if None, chosen from free memory. If memory runs out all
            the same, it is halved and the batch is measured again.
        corpus: all sequences of the run, if ``tokens`` are a part of them: corpus statistics come
            from the run's first sequences, whichever part is measured.
        references: corpus statistics by site, shared by engines that measure parts of one run.
        bos: the token that the sequences begin with; None without one.

    Attributes:
        stages: the time that each stage of the last measurement took.
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
        bos: int | None = None,
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
        self._bos = bos
        self._current_token: Tensor | None = None

    def measure(
        self,
        subjects: Sequence[tuple[Subject, Sequence[str]]],
        *,
        progress: Progress,
        edges: Mapping[str, tuple[int, ...]] | None = None,
        keep: Mapping[str, Sequence[str]] | None = None,
        probes: Mapping[str, Sequence[Probe]] | None = None,
    ) -> dict[str, Measurement | MeasurementError]:
        """Return each SAE's measurement by its id, or the error that prevented it.

        Args:
            subjects: the SAEs, each with the interventions it needs.
            progress: called with the number of tokens just finished.
            edges: by SAE id, the edges of the bins of positions that get sums of their own.
            keep: by SAE id, the channels whose values are stored token by token, and
                DICTIONARY, RANDOM_DICTIONARY or STRATA where these are to be stored.
            probes: by SAE id, further channels to read out of each pass.
        """
        self.stages = Stages(self.host.device)
        bins, stored, more = edges or {}, keep or {}, probes or {}
        gathering = [
            self._gathered(
                subject, names, edges=bins.get(subject.id, ()),
                keep=stored.get(subject.id, ()), probes=tuple(more.get(subject.id, ())),
            )
            for subject, names in subjects
        ]  # fmt: skip
        self._look_at_corpus(gathering)
        failed: dict[str, Measurement | MeasurementError] = {}
        todo = deque(cut(len(self.tokens.ids), self._sequences_at_once(gathering)))
        while todo:
            batch = make_batch(self.tokens, todo.popleft(), device=self.host.device)
            try:
                # A batch without counted tokens has nothing to measure.
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

    def _gathered(
        self,
        subject: Subject,
        names: Sequence[str],
        *,
        edges: tuple[int, ...],
        keep: Sequence[str],
        probes: tuple[Probe, ...],
    ) -> Gathered:
        """Return an SAE at its site with empty sums; the arguments are those of ``measure``."""
        sequences, context = self.tokens.ids.shape
        kept = tuple(name for name in keep if name not in (DICTIONARY, RANDOM_DICTIONARY, STRATA))
        sums = TokenSums(sequences, context, edges, kept, first=self.tokens.first)
        site = site_of(self.host, subject)
        left_out = (CURRENT_TOKEN,) if subject.has_skip else (CURRENT_TOKEN, SKIP_ONLY)
        return Gathered(
            subject,
            site,
            reading_site(self.host, subject, writes=site),
            [name for name in names if name not in left_out],
            with_clusters(sums, self.tokens),
            probes=probes,
            without_context=CURRENT_TOKEN in names,
            watches=DICTIONARY in keep,
            pursues=RANDOM_DICTIONARY in keep,
            strata=StrataSums(self._strata, self.tokens) if STRATA in keep else None,
        )

    def _look_at_corpus(self, gathering: Sequence[Gathered]) -> None:
        """Compute the corpus statistics that the SAEs need, and the SAEs' output on their bank."""
        needed = [g for g in gathering if self._needs_reference(g)]
        self._gather_references(site for g in needed for site in (g.site, g.reads))
        for g in gathering:
            self._reconstruct_bank(g)
            if g.watches:
                bank = self._references[g.reads].bank
                g.dictionary = DictionaryWatch(g.subject, bank, self.tokens)

    def reference(self, site: Site) -> Reference:
        """Return the corpus statistics at a site, from the run's first sequences."""
        return self.references_at([site])[site]

    def references_at(self, sites: Sequence[Site]) -> dict[Site, Reference]:
        """Return the corpus statistics at sites, from one pass over the run's first sequences."""
        self._gather_references(sites)
        return {site: self._references[site] for site in sites}

    @cached_property
    def _strata(self) -> Strata:
        first = self._corpus.part(slice(0, REFERENCE_SEQUENCES))
        text = partial(token_text, self.host.tokenizer)
        return Strata.of(first, self._corpus.ids, text=text, device=self.host.device)

    def _needs_reference(self, g: Gathered) -> bool:
        many = len(self._corpus.ids) > REFERENCE_SEQUENCES
        asked = g.watches or g.pursues or needs_corpus(g.interventions)
        return many or self.tokens.is_part or asked

    def _gather_references(self, sites: Iterable[Site]) -> None:
        """Compute the missing corpus statistics in one pass for all sites."""
        sites = [site for site in dict.fromkeys(sites) if site not in self._references]
        if not sites:
            return
        first = self._corpus.counted[:REFERENCE_SEQUENCES]
        sums_by_site = {s: ReferenceSums(s.width, tokens=int(first.sum())) for s in sites}
        at_once = sequences_at_once(self.host, context=first.shape[1], vectors=2 * len(sites))
        for rows in cut(len(first), self._batch_size or at_once):
            batch = make_batch(self._corpus, rows, device=self.host.device)
            with self.stages(CLEAN):
                clean = self._passes.clean(batch.ids, sites, stop_early=True)
            for site, sums in sums_by_site.items():
                x = read_rows(site, clean.activations[site], batch.at)
                sums.update(x, batch.sequence, batch.position)
        for site, sums in sums_by_site.items():
            self._references[site] = sums.compute(self.host.device)

    def _reconstruct_bank(self, g: Gathered) -> None:
        of_errors = not set(g.interventions).isdisjoint((*AT_ERROR_RADIUS, SKIP_ONLY))
        if not (of_errors or g.pursues):
            return
        # The banks of all sites are activations of the same tokens.
        made = g.subject.reconstruct_many(self._references[g.reads].bank, stages=self.stages)
        reference = self._references[g.site]
        if of_errors:
            g.bank = bank_errors(self.host, g.site, reference.bank, made)
        if g.pursues:
            g.pursuit = PursuitErrors.of(
                reference,
                made,
                features=len(made.fired),
                seed=self.seed,
                clusters=self._corpus.clusters,
            )

    def _sequences_at_once(self, gathering: Sequence[Gathered]) -> int:
        if self._batch_size is not None:
            return self._batch_size
        vectors = 2 + sum(2 + len(g.interventions) for g in gathering)
        return sequences_at_once(self.host, context=self.tokens.ids.shape[1], vectors=vectors)

    def _measure_batch(
        self, batch: Batch, gathering: list[Gathered]
    ) -> dict[str, Measurement | MeasurementError]:
        """Add a batch to the sums; drop the SAEs that cannot be measured and return their errors.

        Everything is computed before anything is added, so that a batch that runs out of memory
        can be measured again.
        """
        sites = dict.fromkeys(site for g in gathering for site in (g.site, g.reads))
        with self.stages(CLEAN):
            clean = self._passes.clean(batch.ids, list(sites))
        assert clean.final is not None
        reconstructed = {g.subject.id: self._reconstructed(g, batch, clean) for g in gathering}
        failed = self._check_first_batch(batch, reconstructed, gathering)
        checks = DeferredChecks(deferred=self.host.device.type != "cpu")
        ce, readouts, probed = self._substituted(batch, clean, reconstructed, gathering, checks)
        if checks.any():
            ce, readouts, probed = self._substituted(
                batch, clean, reconstructed, gathering, IMMEDIATE
            )
        with self.stages(FOLD):
            for g in gathering:
                g.fold_reconstruction(batch, *reconstructed[g.subject.id])
                own = {name: readouts[_key(g, name)] for name in g.interventions}
                g.fold_readouts(batch, ce, own)
                g.fold_probes(batch, probed[g.subject.id])
                if g.without_context:
                    g.fold_current_token(batch, self._current_token_ce()[batch.rows])
        return failed

    def _current_token_ce(self) -> Float[Tensor, "sequences context"]:
        """Return the cross-entropy from the current token alone, computed once."""
        if self._current_token is None:
            with self.stages(CLEAN):
                prefix = prefix_of(self.host, self._bos)
                self._current_token = current_token_ce(self.host, self.tokens, prefix=prefix)
        return self._current_token

    def _substituted(
        self,
        batch: Batch,
        clean: CleanPass,
        reconstructed: Mapping[str, tuple[Tensor, Reconstruction]],
        gathering: list[Gathered],
        checks: DeferredChecks,
    ) -> tuple[Float[Tensor, "tokens"], dict[str, RowReadout], Probed]:
        """Return the clean cross-entropy, every intervention's readout, and the probes' values."""
        assert clean.final is not None
        hidden: dict[str, Changed] = {}
        for site in dict.fromkeys(g.site for g in gathering):
            at_site = [(g, reconstructed[g.subject.id]) for g in gathering if g.site == site]
            hidden |= self._resumed(site, batch, clean, at_site, checks)
        with self.stages(READOUT):
            final = clean.final[batch.at]
            ce, readouts = self._read_out(
                final, hidden, targets=batch.targets, deferred_checks=checks
            )
            probed = {g.subject.id: _probed(g, reconstructed, final, hidden) for g in gathering}
        return ce, readouts, probed

    def _reconstructed(
        self, g: Gathered, batch: Batch, clean: CleanPass
    ) -> tuple[Float[Tensor, "tokens width"], Reconstruction]:
        x = read_rows(g.site, clean.activations[g.site], batch.at)
        read = x if g.reads == g.site else read_rows(g.reads, clean.activations[g.reads], batch.at)
        watch = None if g.dictionary is None else g.dictionary.of(batch)
        return x, g.subject.reconstruct(read, stages=self.stages, watch=watch)

    def _check_first_batch(
        self,
        batch: Batch,
        reconstructed: Mapping[str, tuple[Tensor, Reconstruction]],
        gathering: list[Gathered],
    ) -> dict[str, Measurement | MeasurementError]:
        """On an SAE's first batch prepare its sums, or drop it if it cannot be measured."""
        failed: dict[str, Measurement | MeasurementError] = {}
        for g in [g for g in gathering if g.spread is None]:
            x, reconstruction = reconstructed[g.subject.id]
            try:
                check_first_look(g.subject, x, reconstruction.x_hat)
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
        # The mean of no tokens is NaN; any fixed vector will do instead.
        centre = first_sequence.double().mean(dim=0).nan_to_num()
        return Spread(sequences, centre, by_sequence=True)

    def _substitutions(
        self,
        batch: Batch,
        at_site: AtSite,
        wanted: Callable[[str], bool],
        checks: DeferredChecks,
    ) -> Iterator[tuple[str, Float[Tensor, "tokens width"]]]:
        """Yield x′ of the counted tokens for each wanted intervention at one site."""
        done = set()
        for g, (x, reconstruction) in at_site:
            place = (batch.sequence, batch.position, self._references.get(g.site), g.bank)
            made = (reconstruction.x_hat, reconstruction.l0)
            tokens = Tokens(x, *made, *place, self.seed, reconstruction.skipped, checks)
            names = [name for name in g.interventions if wanted(name)]
            for name in [name for name in names if _key(g, name) not in done]:
                done.add(_key(g, name))
                try:
                    with self.stages(NOISE):
                        changed = substitute(name, tokens)
                except UndefinedDirection as error:
                    g.drop(name, error)
                    continue
                if is_pca(name):
                    g.squared_errors[name] = (x - changed).double().square().sum(dim=-1)
                yield _key(g, name), changed

    def _resumed(
        self, site: Site, batch: Batch, clean: CleanPass, at_site: AtSite, checks: DeferredChecks
    ) -> dict[str, Changed]:
        """Return the final hidden states of the counted tokens under every x′ at one site.

        An x′ that is the same at every token gives the same hidden states in all alike sequences:
        it is run in the first of them only.
        """
        once = INDEPENDENT_OF_SAE if batch.alike and self._passes.is_all(site) else ()
        hidden: dict[str, Changed] = {}
        substitutions = self._substitutions(batch, at_site, lambda n: n not in once, checks)
        at_once = max(1, tokens_a_pass(self.host) // batch.ids.numel())
        while some := dict(islice(substitutions, at_once)):
            hidden |= self._final(site, clean, some, batch.at)
        times = len(batch.ids)
        same = self._substitutions(batch, at_site, lambda n: n in once, checks)
        constant = {key: x[::times] for key, x in same}
        if constant:
            row, position = batch.at
            final = self._final(site, clean.first, constant, (row[::times], position[::times]))
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
        per_token = self._per_token(g.sums) if g.sums.keep else None
        return g.finished(path, per_token=per_token, part=self.tokens.is_part)

    def _per_token(self, sums: TokenSums) -> TokenMeasurement:
        first = slice(0, sums.kept_sequences)
        ids, counted = self.tokens.ids[first].numpy(), self.tokens.counted[first].numpy()
        return TokenMeasurement(
            sums.fetch().by_token, ids, counted, partial(token_text, self.host.tokenizer)
        )


def _key(g: Gathered, name: str) -> str:
    """Name a substitution; SAEs at one site share those that do not depend on the SAE."""
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
