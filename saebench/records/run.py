"""What crosses boundaries: metrics, intervals, gates, cases, runs. Data only, no maths."""

import builtins
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

SCHEMA_VERSION = 4
CLUSTER = "cluster"  # the channel of per-sequence sums that says which sequences repeat each other
ALL_COUNT, FIRST, SPECIAL = "all positions", "position 0", "a special token"
"""What a data set's policies say: which tokens count, and what each sequence begins with."""


class Direction(StrEnum):
    """Which way a metric is better."""

    LOWER = "lower"
    HIGHER = "higher"
    TARGET = "target"


class Verdict(StrEnum):
    """What a gate, a case or a run comes to."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    NEW = "NEW"
    INCOMPARABLE = "INCOMPARABLE"
    SKIPPED = "SKIPPED"
    ERROR = "ERROR"


SEVERITY = {
    Verdict.ERROR: 6,
    Verdict.FAIL: 5,
    Verdict.INCOMPARABLE: 4,
    Verdict.INCONCLUSIVE: 3,
    Verdict.NEW: 2,
    Verdict.PASS: 1,
    Verdict.SKIPPED: 0,
}


def worst(verdicts: list[Verdict]) -> Verdict:
    """Return the most severe verdict.

    Raises:
        ValueError: for an empty list: what was never decided is not a PASS.

    Example:
        >>> worst([Verdict.PASS, Verdict.FAIL]).value
        'FAIL'
    """
    return max(verdicts, key=SEVERITY.__getitem__)


def overall(verdicts: Iterable[Verdict]) -> Verdict:
    """Return what several cases come to together.

    Skipped ones have no say; nor have new ones, that nothing is held against, where others were
    decided.

    Example:
        >>> overall([Verdict.SKIPPED, Verdict.NEW, Verdict.PASS]).value
        'PASS'
    """
    given = set(verdicts)
    decided = given - {Verdict.SKIPPED, Verdict.NEW}
    return worst(list(decided or given or {Verdict.SKIPPED}))


@dataclass(frozen=True)
class Interval:
    """A confidence interval, and how it was made."""

    low: float
    high: float
    level: float
    method: str


@dataclass(frozen=True)
class SampleSize:
    """How much data a number rests on."""

    sequences: int
    tokens: int


@dataclass(frozen=True)
class Stand:
    """Which metric a gate reads, and within what, where the gated one is undefined."""

    metric: str
    scale: float


@dataclass(frozen=True)
class Metric:
    """One number with its unit, direction, version and uncertainty.

    ``value`` is None where the metric is undefined on this data; ``note`` then says why.
    """

    name: str
    version: int
    value: float | None
    unit: str
    direction: Direction
    n: SampleSize
    ci: Interval | None = None
    target: float | None = None
    note: str | None = None
    stand: Stand | None = None


@dataclass(frozen=True)
class Evidence:
    """What speaks for and against a secondary gate.

    Attributes:
        p_within: one-sided p of "the limit does not hold": small shows that it does.
        p_beyond: one-sided p of "the limit holds": small shows that it does not.
        adjusted_within: the first, corrected for all of the run's secondary gates.
        adjusted_beyond: the second, likewise.
        corrected_for: how many gates that were.
    """

    p_within: float
    p_beyond: float
    adjusted_within: float | None = None
    adjusted_beyond: float | None = None
    corrected_for: int = 0


@dataclass(frozen=True)
class GateResult:
    """One rule applied to one metric.

    Where the rule is a margin, ``worse_by`` says how much worse the metric is than its
    ``baseline``, in the margin's terms: 0.05 is 0.05 of the metric's unit, or 5% of the baseline.
    A ``secondary`` gate has no say in the case's verdict; its own is corrected for multiplicity.
    """

    rule: str
    metric: str
    observed: float | None
    ci: Interval | None
    limit: str
    baseline: float | None
    verdict: Verdict
    sentence: str
    worse_by: float | None = None
    worse_ci: Interval | None = None
    secondary: bool = False
    evidence: Evidence | None = None

    @property
    def shown(self) -> str:
        """The verdict, for tables: a secondary one says so."""
        return f"{self.verdict.value}, secondary" if self.secondary else self.verdict.value

    @property
    def change(self) -> float | None:
        """Observed less baseline; None where either is missing."""
        if self.baseline is None or self.observed is None:
            return None
        return self.observed - self.baseline


@dataclass(frozen=True)
class Basis:
    """What a case's numbers rest on: cases of an unequal basis are never compared.

    Attributes:
        model: sha256 of the model's weights.
        dtype: of the model.
        dataset: fingerprint of the token ids.
        seed: root seed of all noise.
    """

    model: str
    dtype: str
    dataset: str
    seed: int


@dataclass(frozen=True)
class CaseResult:
    """One property of one SAE: what was measured and what was decided.

    ``basis`` is None where nothing was measured, and in result files of schema version 1.
    """

    id: str
    sae: str
    property: str
    params: dict[str, Any]
    verdict: Verdict
    reason: str
    duration_s: float
    fingerprint: str
    metrics: tuple[Metric, ...] = ()
    gates: tuple[GateResult, ...] = ()
    series: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    basis: Basis | None = None

    @builtins.property  # the field above hides its name
    def deciding(self) -> tuple[GateResult, ...]:
        """The gates that the verdict is made of."""
        return tuple(gate for gate in self.gates if not gate.secondary)

    def metric(self, name: str) -> Metric | None:
        """Return the metric of a name, which may be undefined; None where it is not reported."""
        return next((metric for metric in self.metrics if metric.name == name), None)

    @builtins.property
    def kind(self) -> str:
        """The case's name without its SAE: equal for the same question about another SAE."""
        return self.id.removesuffix(f"@{self.sae}")

    @builtins.property
    def about(self) -> tuple[str, ...]:
        """The ids of the SAEs that it is about: one, or a pair's two."""
        pair = tuple(self.params[key] for key in ("first", "second") if key in self.params)
        return pair if len(pair) == 2 else (self.sae,)

    def defined(self, name: str) -> Metric | None:
        """Return the metric of a name if it has a value."""
        metric = self.metric(name)
        return metric if metric is not None and metric.value is not None else None


@dataclass(frozen=True)
class SubjectRecord:
    """The SAE that was judged."""

    id: str
    source: str
    weights_sha256: str
    config_sha256: str
    architecture: str
    hook: str
    hook_path: str
    d_in: int
    d_sae: int
    training_context: int | None
    notes: tuple[str, ...] = ()

    @property
    def layer(self) -> int:
        """The number of the hook's block; -1 where its name has none."""
        number = re.search(r"\d+", self.hook)
        return int(number.group()) if number else -1


@dataclass(frozen=True)
class ModelRecord:
    """The language model that the SAE was put into."""

    name: str
    revision: str | None
    weights_sha256: str
    dtype: str
    device: str


@dataclass(frozen=True)
class DatasetRecord:
    """The token sequences that everything was measured on, and which tokens count."""

    name: str
    split: str | None
    revision: str | None
    fingerprint: str
    sequences: int
    context: int
    packing: str
    documents_read: int
    documents_skipped: int
    policies: dict[str, str]


@dataclass(frozen=True)
class Cost:
    """What one measurement took, of all the SAEs that shared it.

    Attributes:
        measured_on: sequences, long sequences, cloze prompts, controls, pairs, or which tokens
            alone.
        model: the model's name.
        saes: the SAEs' ids.
        tokens: tokens of the data.
        seconds: by stage: clean, encode, decode, noise, resume, readout, fold, overhead.
        peak_memory_bytes: the most that the process had held by then.
    """

    measured_on: str
    model: str
    saes: tuple[str, ...]
    tokens: int
    seconds: dict[str, float]
    peak_memory_bytes: int


@dataclass(frozen=True)
class RunRecord:
    """When and how the run was made."""

    id: str
    status: str
    started: str
    finished: str | None
    argv: tuple[str, ...]
    profile: str
    seed: int
    complete: bool


@dataclass(frozen=True)
class Run:
    """Everything one run found: the content of the result file.

    Models and datasets are lists because SAEs of several models or training contexts may be
    judged in one run; ``saes`` and ``cases`` refer to each other by SAE id.
    """

    schema_version: int
    run: RunRecord
    harness: dict[str, str]
    env: dict[str, str]
    machine: dict[str, str]
    models: tuple[ModelRecord, ...]
    datasets: tuple[DatasetRecord, ...]
    saes: tuple[SubjectRecord, ...]
    cases: tuple[CaseResult, ...]
    cost: tuple[Cost, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The verdict on all cases together."""
        return overall(case.verdict for case in self.cases)

    def cases_of(self, sae: str) -> tuple[CaseResult, ...]:
        """Return the cases of one SAE, by its id."""
        return tuple(case for case in self.cases if case.sae == sae)

    @property
    def passed(self) -> bool:
        """True where at least one gate was decided and every one passed."""
        return overall(case.verdict for case in self.cases if case.deciding or case.error) is (
            Verdict.PASS
        )

    @property
    def judged(self) -> tuple[SubjectRecord, ...]:
        """The SAEs that have cases, in the run's order."""
        judged = {case.sae for case in self.cases}
        return tuple(sae for sae in self.saes if sae.id in judged)

    def verdict_of(self, sae: str) -> Verdict:
        """Return what the cases of an SAE come to."""
        return overall(case.verdict for case in self.cases_of(sae))

    def by_depth(self) -> list[str]:
        """Return the SAEs' ids in the order of their places in the model, then by name."""
        return [sae.id for sae in sorted(self.saes, key=lambda s: (s.layer, s.hook, s.id))]

    def cases_about(self, property_name: str, **params: Any) -> list[CaseResult]:
        """Return a property's cases with these parameters, by the depth of their SAE."""
        order = {id: i for i, id in enumerate(self.by_depth())}
        cases = [
            case
            for case in self.cases
            if case.property == property_name and params.items() <= case.params.items()
        ]
        return sorted(cases, key=lambda case: order.get(case.sae, len(order)))

    def worst_first(self) -> list[CaseResult]:
        """Return the cases, the most severe verdict first."""
        return sorted(self.cases, key=lambda case: -SEVERITY[case.verdict])

    def to_dict(self) -> dict[str, Any]:
        """Return the run as plain dictionaries and lists, as in the result file."""
        return asdict(self)
