"""A bench: SAEs that share a model and texts, and everything measured on them."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from saebench.data.tokens import TokenSet
from saebench.experiments.base import (
    ACTIVE,
    CLOZE,
    CONTROLS,
    COST,
    LONG,
    PAIRS,
    SEQUENCES,
    TAX,
    ManyDraws,
    OneToken,
    Source,
)
from saebench.experiments.cloze_prompts import measure_cloze
from saebench.experiments.control_saes import TOGETHER, first_sequences, measure_controls
from saebench.experiments.long_texts import measure_long
from saebench.experiments.one_token import measure_tokens
from saebench.experiments.pairs import measure_pairs
from saebench.experiments.patched_model import measure_tax
from saebench.experiments.texts import Readings, Texts
from saebench.experiments.timing import Workload
from saebench.experiments.windows import Places
from saebench.measures.resources import Stages, peak_bytes
from saebench.options import Settings
from saebench.progress import ProgressBar
from saebench.records.case import CaseRequest
from saebench.records.run import Cost, DatasetRecord, ModelRecord, SubjectRecord
from saebench.subjects.bos import first_token
from saebench.subjects.depth import same_place
from saebench.subjects.hooks import Site
from saebench.subjects.host import Host
from saebench.subjects.sae import Subject
from saebench.substitution.engine import Engine, site_of
from saebench.substitution.reading import reading_site
from saebench.substitution.reference import Reference

Wanted = Sequence[tuple[Subject, Sequence[str]]]
Keep = Mapping[str, Sequence[str]]


@dataclass
class Bench:
    """SAEs of one model, measured on the same tokens.

    Attributes:
        host: the model.
        texts: what is measured on.
        subjects: the SAEs.
        tokens: the sequences of the evaluated context.
        settings: the run's.
        data: what the result file says of the data, by what is measured on.
        costs: what each measurement took.
        parts: the same of the data's parts that some properties are measured on.
        rows: measure only these of the sequences, or of the prompts; all where None.
        bos: the token that sequences begin with; None for none.
    """

    host: Host
    texts: Texts
    subjects: tuple[Subject, ...]
    tokens: TokenSet
    settings: Settings
    data: dict[str, DatasetRecord] = field(default_factory=dict)
    costs: list[Cost] = field(default_factory=list)
    parts: dict[str, DatasetRecord] = field(default_factory=dict)
    rows: slice | None = None
    bos: int | None = None

    def __post_init__(self) -> None:
        """Describe the model and the sequences."""
        self.model: ModelRecord = self.host.record()
        self.readings = Readings(self.host, self.texts, self.settings, bos=self.bos)
        self.data[SEQUENCES] = self.readings.record(self.tokens)
        self._references: dict[str, dict[Site, Reference]] = {}

    def within(self, rows: slice) -> "Bench":
        """Return the bench that measures only some of the sequences; they know of the whole."""
        part = copy(self)
        part.rows, part.costs = rows, []
        part.__dict__.pop("places", None)
        return part

    def corpora(self, source: Source, wanted: Wanted) -> list[TokenSet]:
        """Return the sequences of which statistics are needed to measure parts of a source."""
        if source == LONG:
            sets = self.readings.long_sets(s for s, _ in wanted)
            return list({each.fingerprint: each for each in sets}.values())
        if source == CONTROLS:
            return [first_sequences(self.tokens)]
        whole = source == SEQUENCES or isinstance(source, OneToken | ManyDraws)
        return [self.tokens] if whole else []

    def sites(self, wanted: Wanted) -> list[Site]:
        """Return where the SAEs read and write."""
        written = [(s, site_of(self.host, s)) for s, _ in wanted]
        both = ((site, reading_site(self.host, s, writes=site)) for s, site in written)
        return list(dict.fromkeys(site for pair in both for site in pair))

    def statistics(self, tokens: TokenSet, wanted: Wanted) -> dict[Site, Reference]:
        """Return the statistics of a corpus at the SAEs' places."""
        return self.engine(tokens).references_at(self.sites(wanted))

    def learn(self, tokens: TokenSet, statistics: Mapping[Site, Reference]) -> None:
        """Take the statistics of a corpus, found elsewhere."""
        self._references.setdefault(tokens.fingerprint, {}).update(statistics)

    def extent(self, source: Source, wanted: Wanted) -> tuple[int, int, str]:
        """Return what a source is divided into, to measure it part by part.

        Returns:
            how many sequences or prompts there are, tokens in each, and a fingerprint of them all;
            zero sequences where it is not divided.
        """
        tokens = self.tokens
        if source in (SEQUENCES, PAIRS) or isinstance(source, OneToken):
            return len(tokens.ids), tokens.ids.shape[1], tokens.fingerprint
        if isinstance(source, ManyDraws):
            count = min(source.sequences, len(tokens.ids))
            # A draw is run from its token on: as much work as one token.
            return count, source.draws, tokens.fingerprint
        if source == CLOZE and self.texts.prompts is not None:
            prompts = self.readings.prompts()
            return len(prompts.ids), prompts.ids.shape[1], prompts.fingerprint
        if source == LONG:
            found = list(self.readings.long_sets(s for s, _ in wanted))
            identity = " ".join(each.fingerprint for each in found)
            sizes = [each.ids.shape for each in found] or [(0, 1)]
            return max(n for n, _ in sizes), max(t for _, t in sizes), identity
        if source == CONTROLS:
            first = first_sequences(tokens)
            # Each SAE is measured with its controls beside it.
            return len(first.ids), first.ids.shape[1] * TOGETHER, first.fingerprint
        if source == TAX and self.host.original is not None:
            original = self.host.original.record().weights_sha256
            identity = f"{tokens.fingerprint} {original}"
            return len(tokens.ids), tokens.ids.shape[1], identity
        return 0, 1, tokens.fingerprint

    @property
    def about(self) -> str:
        """What is measured on, in a few words."""
        bos = "without BOS" if self.bos is None else "after BOS"
        return f"{self.tokens.ids.shape[1]} tokens {bos} of {self.host.name}"

    def has(self, saes: Iterable[str]) -> bool:
        """True where all these SAEs are on this bench."""
        return set(saes) <= {subject.id for subject in self.subjects}

    def read_by(self, request: CaseRequest) -> list[Subject]:
        """Return the SAEs that a case reads: those it is about, then its peers at other places."""
        by_id = {subject.id: subject for subject in self.subjects}
        about = [by_id[sae] for sae in request.subjects]
        peers = [by_id[sae] for sae in request.peers if sae in by_id]
        hook = about[0].metadata.hook
        return about + [peer for peer in peers if not same_place(peer.metadata.hook, hook)]

    def measure(
        self, source: Source, wanted: Wanted, *, keep: Keep, progress: ProgressBar
    ) -> dict[str, Any]:
        """Return each SAE's measurement by id; NotApplicable where there can be none.

        Args:
            source: what to measure on: SEQUENCES, LONG, CLOZE, CONTROLS, TAX, COST, OneToken or
                ManyDraws.
            wanted: the SAEs, each with the interventions it needs.
            keep: for SAEs by id, what is kept beyond sums.
            progress: makes a progress bar.
        """
        label = f"{_named([s for s, _ in wanted])} on {self.host.name}"
        if source == COST:
            return {s.id: Workload(self.host, self.tokens, s) for s, _ in wanted}
        if source == SEQUENCES:
            engine = self.places.engine
            with progress(label, engine.tokens.ids.numel()) as advance:
                found = engine.measure(wanted, progress=advance, keep=keep)
            self.count_cost(SEQUENCES, wanted, engine.stages, tokens=engine.tokens.ids)
            return found
        if source == TAX:
            tokens, size = self.part(self.tokens), self.settings.batch_size
            return measure_tax(
                self.host, tokens, wanted, label=label, progress=progress, batch_size=size
            )
        if source == LONG:
            return measure_long(self, wanted, label=label, progress=progress)
        if source == CONTROLS:
            first = first_sequences(self.tokens)
            self.parts[CONTROLS] = self.readings.record(first)
            engine = self.engine(first)
            with progress(f"{label}, controls", engine.tokens.ids.numel()) as advance:
                found = measure_controls(engine, wanted, progress=advance)
            self.count_cost(CONTROLS, wanted, engine.stages, tokens=engine.tokens.ids)
            return found
        if isinstance(source, OneToken | ManyDraws):
            return measure_tokens(self, source, wanted, label=label, progress=progress)
        active = {sae for sae, kept in keep.items() if ACTIVE in kept}
        return measure_cloze(self, wanted, active=active, label=label, progress=progress)

    def measure_pairs(
        self, pairs: Iterable[tuple[str, ...]], *, progress: ProgressBar
    ) -> dict[str, Any]:
        """Return each pair's measurement by its joined name; NotApplicable where there is none.

        Args:
            pairs: ids of SAEs on this bench, the first before the second in the model.
            progress: makes a progress bar.
        """
        by_id = {subject.id: subject for subject in self.subjects}
        chosen = [[by_id[sae] for sae in pair] for pair in pairs]
        tokens = self.part(self.tokens)
        found, stages = measure_pairs(
            self.host, tokens, chosen, settings=self.settings, progress=progress
        )
        if stages is not None:
            wanted = [(s, ()) for s in dict.fromkeys(s for pair in chosen for s in pair)]
            self.count_cost(PAIRS, wanted, stages, tokens=tokens.ids)
        return dict(found)

    def data_of(self, source: Source, measurement: Any) -> DatasetRecord:
        """Return what the result file says of the data that a measurement was made on."""
        context = getattr(getattr(measurement, "sums", None), "context", None)
        keys = (f"{source}/{context}", str(source), SEQUENCES)
        known = self.data | self.parts
        return next(known[key] for key in keys if key in known)

    def describe(self, subject: Subject, *, path: str) -> SubjectRecord:
        """Return what the result file says of one of the SAEs."""
        config = json.dumps(subject.config, sort_keys=True, default=str).encode()
        return SubjectRecord(
            id=subject.id,
            source=subject.source,
            weights_sha256=subject.weights_sha256,
            config_sha256=hashlib.sha256(config).hexdigest(),
            architecture=subject.architecture,
            hook=subject.metadata.hook,
            hook_path=path,
            d_in=subject.d_in,
            d_sae=subject.d_sae,
            training_context=subject.metadata.training_context,
            notes=subject.metadata.notes + self.host.notes + self._notes(subject),
        )

    def count_cost(self, source: str, wanted: Wanted, stages: Stages, *, tokens: Tensor) -> None:
        """Keep what a measurement took."""
        self.costs.append(
            Cost(
                measured_on=source,
                model=self.model.name,
                saes=tuple(subject.id for subject, _ in wanted),
                tokens=tokens.numel(),
                seconds=stages.seconds(),
                peak_memory_bytes=peak_bytes(self.host.device),
            )
        )

    def engine(self, tokens: TokenSet) -> Engine:
        """Return the engine of some of the run's tokens: of the bench's rows of them."""
        return Engine(
            self.host,
            self.part(tokens),
            seed=self.settings.seed,
            batch_size=self.settings.batch_size,
            corpus=tokens,
            references=self._references.setdefault(tokens.fingerprint, {}),
        )

    def part(self, tokens: TokenSet) -> TokenSet:
        """Return the bench's rows of some tokens."""
        return tokens if self.rows is None else tokens.part(self.rows)

    @cached_property
    def places(self) -> Places:
        """The SAEs at their places, with the engine of the SEQUENCES: all sources share them."""
        return Places(self.engine(self.tokens))

    def _notes(self, subject: Subject) -> tuple[str, ...]:
        trained_on = subject.metadata.dataset_path
        name = self.texts.documents.name
        notes = []
        if trained_on and trained_on.rsplit("/", 1)[-1] == name.rsplit("/", 1)[-1]:
            notes.append(f"measured on {name}, the text that this SAE was trained on")
        first = first_token(self.host, subject.metadata, self.settings.bos_token)
        notes += [first.note] if first.note else []
        if self.tokens.repeated:
            notes.append(
                f"{self.tokens.repeated} of {len(self.tokens.ids)} sequences repeat another: they "
                "are resampled together, and the intervals are those of the sequences that differ"
            )
        if str(self.tokens.without_text):
            notes.append(
                f"{self.tokens.without_text} among the {self.tokens.documents_read} documents of "
                f"{name} that were read: skipped"
            )
        return tuple(notes)


def _named(subjects: Sequence[Subject]) -> str:
    return subjects[0].id if len(subjects) == 1 else f"{len(subjects)} SAEs"
