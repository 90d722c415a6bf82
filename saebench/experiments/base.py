"""Kinds of measurement: what each is divided into, what it needs, and which class carries it out.

An :class:`Experiment` is a declaration: properties name one, and reading it needs no torch. The
class that ``carried_out_by`` names does the work on a bench. What it measures is a
:class:`~saebench.measures.state.State`, whose fields declare how the parts of a run merge.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from saebench.errors import MeasurementError, NotApplicable
from saebench.measures.names import Probe
from saebench.measures.state import finished, merged
from saebench.records.case import joined

if TYPE_CHECKING:
    from saebench.data.tokens import TokenSet
    from saebench.experiments.bench import Bench
    from saebench.experiments.timing import Workload
    from saebench.measures.state import State
    from saebench.progress import ProgressBar
    from saebench.subjects.sae import Subject

ACTIVE = "active"
"""Kept of each cloze prompt, where a property asks for it: the features that are active on it."""

Failure = NotApplicable | MeasurementError
Measured: TypeAlias = "State | Workload"


@dataclass(frozen=True)
class Experiment:
    """A kind of measurement. Its fields are its parameters.

    Attributes:
        name: in result files and stored baselines.
        carried_out_by: the class that does it, as ``module:Class``.
        of_pairs: it measures pairs of SAEs, not each SAE alone.
        saes_for_each: SAEs that are run for each one that is measured.
        stops_early: it may end as soon as every gate is decided.
        is_stored: baselines hold its sums; a time on another machine, or SAEs made anew in every
            run, are nothing to compare with.
        is_timed: nothing else may run meanwhile, and it is measured on request alone.
        remeasured: sequences that are measured again to learn how much noise that brings.
    """

    name: ClassVar[str]
    carried_out_by: ClassVar[str]
    of_pairs: ClassVar[bool] = False
    saes_for_each: ClassVar[int] = 1
    stops_early: ClassVar[bool] = True
    is_stored: ClassVar[bool] = True
    is_timed: ClassVar[bool] = False
    remeasured: ClassVar[int] = 32

    def __str__(self) -> str:
        """Return its name with its parameters, as stored sums are named."""
        return self.name

    @property
    def has_parameters(self) -> bool:
        """True where its name alone does not say what is measured."""
        return bool(fields(self))

    def on(self, bench: "Bench") -> "Measurer":
        """Return what carries it out on the SAEs, model and texts of a bench."""
        module, _, name = self.carried_out_by.partition(":")
        return getattr(import_module(module), name)(self, bench)


@dataclass(frozen=True)
class Sequences(Experiment):
    """Every counted token of the run's sequences substituted."""

    name = "sequences"
    carried_out_by = "saebench.experiments.sequences:SequencesMeasurer"


@dataclass(frozen=True)
class LongTexts(Experiment):
    """The same on sequences that reach beyond the context that the SAE was trained on."""

    name = "long"
    carried_out_by = "saebench.experiments.sequences:LongTextsMeasurer"


@dataclass(frozen=True)
class ClozePrompts(Experiment):
    """Prompts whose last word is to be predicted."""

    name = "cloze"
    carried_out_by = "saebench.experiments.cloze_prompts:ClozeMeasurer"


@dataclass(frozen=True)
class Timing(Experiment):
    """One batch, timed."""

    name = "cost"
    carried_out_by = "saebench.experiments.timing:TimingMeasurer"
    is_stored = False
    is_timed = True


@dataclass(frozen=True)
class Pairs(Experiment):
    """Two SAEs in one model: what the first one's error does to the second, and both together."""

    name = "pairs"
    carried_out_by = "saebench.experiments.pairs:PairsMeasurer"
    of_pairs = True


@dataclass(frozen=True)
class WithControls(Experiment):
    """Each SAE with negative controls that are made of it, on the same sequences."""

    name = "controls"
    carried_out_by = "saebench.experiments.control_saes:ControlsMeasurer"
    saes_for_each = 6
    stops_early = False
    is_stored = False


@dataclass(frozen=True)
class AlignmentTax(Experiment):
    """A model that was changed for its SAE, against the original."""

    name = "tax"
    carried_out_by = "saebench.experiments.patched_model:TaxMeasurer"
    stops_early = False


@dataclass(frozen=True)
class OneToken(Experiment):
    """One token of each sequence substituted.

    Attributes:
        position: the token's.
        offsets: how many positions after it are read out too.
    """

    name = "one-token"
    carried_out_by = "saebench.experiments.one_token:OneTokenMeasurer"
    position: int = 0
    offsets: int = 16

    def __str__(self) -> str:
        """Return its name with its parameters."""
        return f"{self.name}-{self.position}+{self.offsets}"


@dataclass(frozen=True)
class ManyDraws(Experiment):
    """One token of each of the first sequences under many random errors of the SAE's size.

    Attributes:
        position: the token's.
        draws: how many random errors.
        sequences: how many sequences.
    """

    name = "draws"
    carried_out_by = "saebench.experiments.draws:DrawsMeasurer"
    remeasured = 8  # each under hundreds of random errors: more would cost what the run did
    position: int = 0
    draws: int = 2
    sequences: int = 1

    def __str__(self) -> str:
        """Return its name with its parameters."""
        return f"{self.name}-{self.position}x{self.draws}-of-{self.sequences}"


SEQUENCES, PAIRS, CONTROLS = Sequences(), Pairs(), WithControls()
EXPERIMENTS: tuple[type[Experiment], ...] = (
    Sequences, LongTexts, ClozePrompts, Timing, Pairs, WithControls, AlignmentTax, OneToken,
    ManyDraws,
)  # fmt: skip
"""Every kind of measurement: a new one is one class here, and the one that carries it out."""


@dataclass(frozen=True)
class Target:
    """What is to be measured of one SAE, or of one pair.

    Attributes:
        subjects: the SAE; of a pair both, the first before the second in the model.
        interventions: which substitutions its metrics need.
        keep: what is kept beyond sums: channels token by token, or ``ACTIVE``.
        probes: further channels to read out of each pass.
    """

    subjects: "tuple[Subject, ...]"
    interventions: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    probes: tuple[Probe, ...] = ()

    @property
    def subject(self) -> "Subject":
        """The SAE."""
        return self.subjects[0]

    @property
    def name(self) -> str:
        """The SAE's id, or both ids of a pair."""
        return joined([subject.id for subject in self.subjects])


Targets = Sequence[Target]


@dataclass(frozen=True)
class Extent:
    """What a measurement can be divided into.

    Attributes:
        count: sequences or prompts; 0 where it is not divided.
        width: tokens' worth of work in each.
        fingerprint: of all of them.
    """

    count: int
    width: int
    fingerprint: str

    @property
    def is_divided(self) -> bool:
        """True where it can be measured part by part."""
        return self.count > 0


@dataclass
class Results:
    """What an experiment gave, by the SAE's or the pair's name.

    Attributes:
        measurements: of those that could be measured.
        failures: why there is none, of the others.
    """

    measurements: "dict[str, Measured]" = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)

    @classmethod
    def of(cls, by_name: Mapping[str, Any]) -> "Results":
        """Sort a mapping of measurements and errors."""
        failed = {n: each for n, each in by_name.items() if isinstance(each, Failure)}
        return cls({n: each for n, each in by_name.items() if n not in failed}, failed)

    @classmethod
    def failed(cls, targets: Iterable[Target], error: Failure) -> "Results":
        """Say of all of them that they failed for one reason."""
        return cls(failures={target.name: error for target in targets})

    def __or__(self, other: "Results") -> "Results":
        """Return both together; of one name, the other's counts."""
        names = set(other.names())
        measured = {n: each for n, each in self.measurements.items() if n not in names}
        failed = {n: each for n, each in self.failures.items() if n not in names}
        return Results(measured | other.measurements, failed | other.failures)

    def __getitem__(self, name: str) -> "Measured | Failure":
        """Return a measurement, or why there is none."""
        return self.failures[name] if name in self.failures else self.measurements[name]

    def names(self) -> list[str]:
        """Return whose results these are."""
        return [*self.measurements, *self.failures]

    def only(self, name: str) -> "Results":
        """Return those of one SAE or pair."""
        return Results.of({name: self[name]})

    @classmethod
    def merged(cls, parts: "Sequence[Results]") -> "Results":
        """Return the results of consecutive parts together.

        What could not be measured in one part was not measured: its first error says why. Sums
        are added in the parts' order, so that the same parts give the same bits.
        """
        by_name: dict[str, Any] = {}
        for name in parts[0].names():
            each = [part[name] for part in parts]
            errors = [e for kind in (MeasurementError, NotApplicable) for e in each
                      if isinstance(e, kind)]  # fmt: skip
            by_name[name] = errors[0] if errors else merged(each)
        return cls.of(by_name)

    def finished(self) -> "Results":
        """Return the results once all parts are in them."""
        done = {name: finished(each) for name, each in self.measurements.items()}
        return Results(done, self.failures)


class Measurer(ABC):
    """Carries an experiment out on a bench: SAEs of one model, and the texts.

    Args:
        experiment: what is measured.
        bench: the SAEs, the model and the texts.
    """

    def __init__(self, experiment: Any, bench: "Bench") -> None:
        self.experiment = experiment
        self.bench = bench

    def extent(self, targets: Targets) -> Extent:  # noqa: ARG002
        """Return what the measurement can be divided into; undivided unless it says otherwise."""
        return Extent(0, 1, self.bench.tokens.fingerprint)

    def corpora(self, targets: Targets) -> "list[TokenSet]":  # noqa: ARG002
        """Return the sequences whose statistics each part needs; none unless it says otherwise."""
        return []

    @abstractmethod
    def measure(self, targets: Targets, *, progress: "ProgressBar") -> Results:
        """Measure the bench's rows of the experiment."""

    def label(self, targets: Targets) -> str:
        """Return what the progress bar says."""
        kind = "pairs of SAEs" if self.experiment.of_pairs else "SAEs"
        who = targets[0].name if len(targets) == 1 else f"{len(targets)} {kind}"
        return f"{who} on {self.bench.host.name}"
