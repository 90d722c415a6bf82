"""Experiments, the kinds of measurement: how each is divided, what it needs, who measures it.

An :class:`Experiment` is a declaration that properties name and that can be read without torch. The
:class:`Measurer` that its ``carried_out_by`` names does the work on a bench. The result is a
:class:`~saebench.measures.state.State`, whose fields declare how the parts of a run are merged.
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
    from saebench.data.cloze_tokens import ClozeTokens
    from saebench.data.tokens import TokenSet
    from saebench.experiments.bench import Bench
    from saebench.experiments.timing import Workload
    from saebench.measures.state import State
    from saebench.options import Settings
    from saebench.progress import ProgressBar
    from saebench.subjects.sae import Subject

ACTIVE = "active"
"""Stored for each cloze prompt, if a property's ``keeps`` names it: the features active on it."""

Failure = NotApplicable | MeasurementError
Measured: TypeAlias = "State | Workload"


@dataclass(frozen=True)
class Experiment:
    """A kind of measurement; its fields are its parameters.

    Attributes:
        name: its name in result files and stored baselines.
        carried_out_by: the measurer's class, as ``module:Class``.
        of_pairs: True if it measures pairs of SAEs instead of single ones.
        saes_for_each: number of SAEs that are run for each one that is measured.
        stops_early: True if it may end as soon as every gate is decided.
        is_stored: True if baselines store its sums; False for times, which differ between
            machines, and for controls, which every run makes anew.
        is_timed: True if it is timed: nothing else may run meanwhile.
        remeasured: number of sequences that are measured again to estimate re-measurement noise.
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
        """Return its name with its parameters, which is the name of its stored sums."""
        return self.name

    @property
    def has_parameters(self) -> bool:
        """True if it has parameters, so that its name alone does not identify it."""
        return bool(fields(self))

    def is_asked_for(self, settings: "Settings") -> bool:  # noqa: ARG002
        """True if a run of these settings must have it to be whole, where gates read it."""
        return True

    def on(self, bench: "Bench") -> "Measurer":
        """Return the measurer of this experiment on a bench."""
        module, _, name = self.carried_out_by.partition(":")
        return getattr(import_module(module), name)(self, bench)


@dataclass(frozen=True)
class Sequences(Experiment):
    """All counted tokens of the run's sequences substituted."""

    name = "sequences"
    carried_out_by = "saebench.experiments.sequences:SequencesMeasurer"


@dataclass(frozen=True)
class LongTexts(Experiment):
    """All counted tokens substituted, in sequences longer than the SAE's training context."""

    name = "long"
    carried_out_by = "saebench.experiments.sequences:LongTextsMeasurer"


@dataclass(frozen=True)
class ClaimedTexts(Experiment):
    """All counted tokens substituted, in sequences as long as the SAE claims to work on."""

    name = "claimed"
    carried_out_by = "saebench.experiments.sequences:ClaimedTextsMeasurer"


@dataclass(frozen=True)
class ClozePrompts(Experiment):
    """Cloze prompts, whose last word is to be predicted."""

    name = "cloze"
    carried_out_by = "saebench.experiments.cloze_prompts:ClozeMeasurer"


@dataclass(frozen=True)
class Timing(Experiment):
    """The time of one batch."""

    name = "cost"
    carried_out_by = "saebench.experiments.timing:TimingMeasurer"
    is_stored = False
    is_timed = True


@dataclass(frozen=True)
class Pairs(Experiment):
    """Two SAEs in one model: the first one's effect on the second, and both together."""

    name = "pairs"
    carried_out_by = "saebench.experiments.pairs:PairsMeasurer"
    of_pairs = True


@dataclass(frozen=True)
class WithControls(Experiment):
    """Each SAE and the controls made of it, on the same sequences."""

    name = "controls"
    carried_out_by = "saebench.experiments.control_saes:ControlsMeasurer"
    saes_for_each = 6
    stops_early = False
    is_stored = False


@dataclass(frozen=True)
class PrincipalComponents(Experiment):
    """Each SAE, and principal components in several numbers, on the first sequences."""

    name = "components"
    carried_out_by = "saebench.experiments.components:ComponentsMeasurer"


@dataclass(frozen=True)
class AlignmentTax(Experiment):
    """A model that was changed for its SAE, compared with the original."""

    name = "tax"
    carried_out_by = "saebench.experiments.patched_model:TaxMeasurer"
    stops_early = False

    def is_asked_for(self, settings: "Settings") -> bool:
        """True with ``--sae-host-patch``: without it no model is changed."""
        return settings.host_patch


@dataclass(frozen=True)
class OneToken(Experiment):
    """One token of each sequence substituted.

    Attributes:
        position: the token's position.
        offsets: number of positions after it that are read out too.
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
    """One token of each of the first sequences, with many random errors of the SAE error's size.

    Attributes:
        position: the token's position.
        draws: number of random errors.
        sequences: number of sequences.
    """

    name = "draws"
    carried_out_by = "saebench.experiments.draws:DrawsMeasurer"
    remeasured = 8  # each has hundreds of draws: more would take as long as the run did
    position: int = 0
    draws: int = 2
    sequences: int = 1

    def __str__(self) -> str:
        """Return its name with its parameters."""
        return f"{self.name}-{self.position}x{self.draws}-of-{self.sequences}"


@dataclass(frozen=True)
class Everywhere(Experiment):
    """All tokens of the first sequences substituted, position 0 and special tokens too.

    Attributes:
        sequences: number of sequences.
    """

    name = "everywhere"
    carried_out_by = "saebench.experiments.everywhere:EverywhereMeasurer"
    sequences: int = 32

    def __str__(self) -> str:
        """Return its name with its parameter."""
        return f"{self.name}-of-{self.sequences}"


SEQUENCES, PAIRS, CONTROLS = Sequences(), Pairs(), WithControls()
EXPERIMENTS: tuple[type[Experiment], ...] = (
    Sequences, LongTexts, ClaimedTexts, ClozePrompts, Timing, Pairs, WithControls,
    PrincipalComponents, AlignmentTax, OneToken, ManyDraws, Everywhere,
)  # fmt: skip
"""All kinds of measurement. A new one is a class here and a :class:`Measurer`."""


@dataclass(frozen=True)
class Target:
    """One SAE or pair to be measured, and what its metrics need.

    Attributes:
        subjects: the SAE; for a pair both SAEs, the first before the second in the model.
        interventions: the interventions that its metrics need.
        keep: what to store beyond sums: channels token by token, or ``ACTIVE``.
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
    """The parts that a measurement can be divided into.

    Attributes:
        count: number of sequences or prompts; 0 if it cannot be divided.
        width: the work of each, in tokens.
        fingerprint: of the data.
    """

    count: int
    width: int
    fingerprint: str

    @property
    def is_divided(self) -> bool:
        """True if it can be measured part by part."""
        return self.count > 0


@dataclass
class Results:
    """An experiment's results, by the name of the SAE or pair.

    Attributes:
        measurements: the measurement of each target that could be measured.
        failures: the error of each target that could not.
    """

    measurements: "dict[str, Measured]" = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)

    @classmethod
    def of(cls, by_name: Mapping[str, Any]) -> "Results":
        """Return the results of a mapping that contains both measurements and errors."""
        failed = {n: each for n, each in by_name.items() if isinstance(each, Failure)}
        return cls({n: each for n, each in by_name.items() if n not in failed}, failed)

    @classmethod
    def failed(cls, targets: Iterable[Target], error: Failure) -> "Results":
        """Return the same failure for all targets."""
        return cls(failures={target.name: error for target in targets})

    def __or__(self, other: "Results") -> "Results":
        """Return the union; for a name in both, the other's result."""
        names = set(other.names())
        measured = {n: each for n, each in self.measurements.items() if n not in names}
        failed = {n: each for n, each in self.failures.items() if n not in names}
        return Results(measured | other.measurements, failed | other.failures)

    def __getitem__(self, name: str) -> "Measured | Failure":
        """Return a target's measurement or failure."""
        return self.failures[name] if name in self.failures else self.measurements[name]

    def names(self) -> list[str]:
        """Return the targets' names."""
        return [*self.measurements, *self.failures]

    def only(self, name: str) -> "Results":
        """Return the results of one target."""
        return Results.of({name: self[name]})

    @classmethod
    def merged(cls, parts: "Sequence[Results]") -> "Results":
        """Return the merged results of consecutive parts.

        A target that failed in one part has failed, with its first error. Sums are added in the
        parts' order, so that the same parts give the same bits.
        """
        by_name: dict[str, Any] = {}
        for name in parts[0].names():
            each = [part[name] for part in parts]
            errors = [e for kind in (MeasurementError, NotApplicable) for e in each
                      if isinstance(e, kind)]  # fmt: skip
            by_name[name] = errors[0] if errors else merged(each)
        return cls.of(by_name)

    def finished(self) -> "Results":
        """Finish every measurement, once all parts are merged."""
        done = {name: finished(each) for name, each in self.measurements.items()}
        return Results(done, self.failures)


class Measurer(ABC):
    """Measures the targets of one experiment on a bench.

    Args:
        experiment: what to measure.
        bench: the SAEs, their model and the texts.
    """

    def __init__(self, experiment: Any, bench: "Bench") -> None:
        self.experiment = experiment
        self.bench = bench

    def extent(self, targets: Targets) -> Extent:  # noqa: ARG002
        """Return how the measurement can be divided; by default not at all."""
        return Extent(0, 1, self.bench.tokens.fingerprint)

    def corpora(self, targets: Targets) -> "list[TokenSet]":  # noqa: ARG002
        """Return the token sets whose statistics every part needs; by default none."""
        return []

    def tokens_of(self, subject: "Subject") -> "TokenSet | ClozeTokens":  # noqa: ARG002
        """Return what an SAE is measured on; by default the run's sequences.

        Raises:
            NotApplicable: if there is nothing.
        """
        return self.bench.tokens

    @abstractmethod
    def measure(self, targets: Targets, *, progress: "ProgressBar") -> Results:
        """Measure the targets on the bench's range of sequences or prompts."""

    def label(self, targets: Targets) -> str:
        """Return the progress bar's label."""
        kind = "pairs of SAEs" if self.experiment.of_pairs else "SAEs"
        who = targets[0].name if len(targets) == 1 else f"{len(targets)} {kind}"
        return f"{who} on {self.bench.host.name}"
