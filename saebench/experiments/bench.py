"""The bench: SAEs that share a model and its tokens, with what measurements of them need."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from saebench.data.tokens import TokenSet
from saebench.experiments.base import SEQUENCES, Experiment, Extent, Targets
from saebench.experiments.texts import Readings, Texts
from saebench.experiments.windows import Places
from saebench.measures.resources import Stages, peak_bytes
from saebench.options import Settings
from saebench.records.case import CaseRequest
from saebench.records.inputs import DatasetRecord, ModelRecord, SubjectRecord, TrainingOverlap
from saebench.records.run import Cost
from saebench.subjects.bos import first_token
from saebench.subjects.depth import same_place
from saebench.subjects.hooks import Site
from saebench.subjects.host import Host
from saebench.subjects.sae import Subject
from saebench.substitution.engine import Engine
from saebench.substitution.gathering import reading_site, site_of
from saebench.substitution.reference import Reference


@dataclass
class Bench:
    """SAEs of one model, measured on the same tokens.

    Attributes:
        host: the model.
        texts: the documents and cloze prompts to measure on.
        subjects: the SAEs.
        tokens: the sequences of the evaluated context.
        settings: the run's settings.
        data: the result file's records of the data, by experiment.
        costs: the cost of each measurement.
        parts: records of parts of the data, for experiments that are measured on a part.
        rows: the range of sequences or prompts to measure; all if None.
        bos: the token that sequences begin with, or None.
        overlaps: the overlap of the sequences with SAEs' training texts, by SAE id, where known.
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
    overlaps: dict[str, TrainingOverlap] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Describe the model and the sequences."""
        self.model: ModelRecord = self.host.record()
        self.readings = Readings(
            self.host, self.texts, self.settings, bos=self.bos, tokens=self.tokens
        )
        self.data[str(SEQUENCES)] = self.readings.record(self.tokens)
        self._references: dict[str, dict[Site, Reference]] = {}

    def within(self, rows: slice) -> "Bench":
        """Return a bench for a range of the sequences, with the statistics of all of them."""
        part = copy(self)
        part.rows, part.costs = rows, []
        part.__dict__.pop("places", None)
        return part

    def sites(self, targets: Targets) -> list[Site]:
        """Return the sites at which the targets' SAEs read and write."""
        subjects = dict.fromkeys(subject for target in targets for subject in target.subjects)
        written = [(s, site_of(self.host, s)) for s in subjects]
        both = ((site, reading_site(self.host, s, writes=site)) for s, site in written)
        return list(dict.fromkeys(site for pair in both for site in pair))

    def statistics(self, tokens: TokenSet, targets: Targets) -> dict[Site, Reference]:
        """Return the corpus statistics at the sites of the targets' SAEs."""
        return self.engine(tokens).references_at(self.sites(targets))

    def take_statistics(self, tokens: TokenSet, statistics: Mapping[Site, Reference]) -> None:
        """Use corpus statistics that were computed by another process."""
        self._references.setdefault(tokens.fingerprint, {}).update(statistics)

    @property
    def extent(self) -> Extent:
        """All sequences of the run."""
        return Extent(len(self.tokens.ids), self.tokens.ids.shape[1], self.tokens.fingerprint)

    @property
    def about(self) -> str:
        """A short description of the tokens and the model."""
        bos = "without BOS" if self.bos is None else "after BOS"
        return f"{self.tokens.ids.shape[1]} tokens {bos} of {self.host.name}"

    def has(self, saes: Iterable[str]) -> bool:
        """True if all these SAEs are on this bench."""
        return set(saes) <= {subject.id for subject in self.subjects}

    def read_by(self, request: CaseRequest) -> list[Subject]:
        """Return the SAEs that a case reads: its own, then its peers at other hooks."""
        by_id = {subject.id: subject for subject in self.subjects}
        about = [by_id[sae] for sae in request.subjects]
        peers = [by_id[sae] for sae in request.peers if sae in by_id]
        hook = about[0].metadata.hook
        return about + [peer for peer in peers if not same_place(peer.metadata.hook, hook)]

    def data_of(self, experiment: Experiment, measurement: Any) -> DatasetRecord:
        """Return the result file's record of the data of a measurement."""
        context = getattr(getattr(measurement, "sums", None), "context", None)
        keys = (f"{experiment}/{context}", str(experiment), str(SEQUENCES))
        known = self.data | self.parts
        return next(known[key] for key in keys if key in known)

    def describe(self, subject: Subject, *, path: str) -> SubjectRecord:
        """Return the result file's record of an SAE.

        Args:
            subject: the SAE.
            path: how the model was run with it.
        """
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
            overlap=self.overlaps.get(subject.id),
        )

    def count_cost(
        self, experiment: Experiment, targets: Targets, stages: Stages, *, tokens: Tensor
    ) -> None:
        """Record the cost of a measurement."""
        self.costs.append(
            Cost(
                measured_on=str(experiment),
                model=self.model.name,
                saes=tuple(dict.fromkeys(s.id for target in targets for s in target.subjects)),
                tokens=tokens.numel(),
                seconds=stages.seconds(),
                peak_memory_bytes=peak_bytes(self.host.device),
            )
        )

    def engine(self, tokens: TokenSet) -> Engine:
        """Return an engine for the bench's range of some of the run's sequences."""
        return Engine(
            self.host,
            self.part(tokens),
            seed=self.settings.seed,
            batch_size=self.settings.batch_size,
            corpus=tokens,
            references=self._references.setdefault(tokens.fingerprint, {}),
            bos=self.bos,
        )

    def part(self, tokens: TokenSet) -> TokenSet:
        """Return the bench's range of some sequences."""
        return tokens if self.rows is None else tokens.part(self.rows)

    @cached_property
    def places(self) -> Places:
        """The SAEs at their sites, with the engine of the run's sequences."""
        return Places(self.engine(self.tokens))

    def _notes(self, subject: Subject) -> tuple[str, ...]:
        name = self.texts.documents.name
        overlap = self.overlaps.get(subject.id)
        notes = [overlap.sentence] if overlap else []
        first = first_token(self.host, subject.metadata, self.settings.bos_token)
        notes += [first.note] if first.note else []
        sequences, independent = len(self.tokens.ids), self.tokens.independent
        if independent < sequences:
            notes.append(
                f"{sequences - independent} of {sequences} sequences repeat another, wholly or "
                f"nearly, or are of its document: the intervals are those of {independent} "
                "independent documents"
            )
        if str(self.tokens.without_text):
            notes.append(
                f"{self.tokens.without_text} among the {self.tokens.documents_read} documents of "
                f"{name} that were read: skipped"
            )
        return tuple(notes)
