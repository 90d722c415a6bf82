"""A run and its parts: metrics with their intervals, gate results, cases, SAEs, data."""

import builtins
import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from saebench.records.schema import Schema, unchanged

LEVEL = 0.95  # of confidence intervals, by default
CLUSTER = "cluster"  # the channel of per-sequence sums with the cluster of each sequence's repeats
ALL_COUNT, FIRST, SPECIAL = "all positions", "position 0", "a special token"
"""Values of a data set's policies: which tokens count, and how each sequence begins."""


class Direction(StrEnum):
    """Which way a metric is better."""

    LOWER = "lower"
    HIGHER = "higher"
    TARGET = "target"


class Verdict(StrEnum):
    """The verdict on a gate, a case or a run."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    INCOMPLETE = "INCOMPLETE"  # of a run or an SAE: a deciding case was not judged
    NEW = "NEW"
    INCOMPARABLE = "INCOMPARABLE"
    SKIPPED = "SKIPPED"
    ERROR = "ERROR"


SEVERITY = {
    Verdict.ERROR: 7,
    Verdict.FAIL: 6,
    Verdict.INCOMPARABLE: 5,
    Verdict.INCOMPLETE: 4,
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
    """Return the verdict on several cases together: the worst of those that were decided.

    A skipped case does not count; nor does a new one, which has nothing to be compared with,
    where others were decided.

    Example:
        >>> overall([Verdict.SKIPPED, Verdict.NEW, Verdict.PASS]).value
        'PASS'
    """
    given = set(verdicts)
    decided = given - {Verdict.SKIPPED, Verdict.NEW}
    return worst(list(decided or given or {Verdict.SKIPPED}))


@dataclass(frozen=True)
class Interval:
    """A confidence interval, its level, and the method in words.

    Example:
        >>> interval = Interval(0.25, 0.75, 0.95, "bootstrap")
        >>> interval.text("+.1f"), 0.5 in interval
        ('[+0.2, +0.8]', True)
    """

    low: float
    high: float
    level: float
    method: str

    def __contains__(self, value: float) -> bool:
        """True where a value lies within, the ends included."""
        return self.low <= value <= self.high

    @property
    def is_finite(self) -> bool:
        """True where both ends are numbers."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def scaled(self, factor: float) -> "Interval":
        """Return the interval of the number times a positive factor."""
        return Interval(self.low * factor, self.high * factor, self.level, self.method)

    def text(self, form: str = ".3g") -> str:
        """Return the interval for people, each end in a number format."""
        return f"[{self.low:{form}}, {self.high:{form}}]"


class AsEnds:
    """Marks an interval that a JSON file holds as its two ends; its level is then 95%."""

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> Any:
        """Return how pydantic reads and writes the two ends; it alone calls this."""
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(
            lambda ends: Interval(ends[0], ends[1], LEVEL, ""),
            core_schema.tuple_schema([core_schema.float_schema(), core_schema.float_schema()]),
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda interval: [interval.low, interval.high]
            ),
        )


@dataclass(frozen=True)
class SampleSize:
    """How much data a metric was computed from."""

    sequences: int
    tokens: int


@dataclass(frozen=True)
class Fallback:
    """The metric that a gate reads where the gated one is undefined.

    Attributes:
        metric: its name.
        scale: a limit of L on the gated metric is a limit of (L - 1)·scale on this one; where the
            scale is negative, an upper limit becomes a lower one, and the reverse.
    """

    metric: str
    scale: float

    def limits(self, low: float, high: float) -> tuple[float, float]:
        """Return the limits on this metric that stand for limits on the gated one.

        Example:
            >>> Fallback("fidelity.ce_increase", -0.5).limits(0.75, float("inf"))
            (-inf, 0.125)
        """
        ends = sorted((limit - 1) * self.scale for limit in (low, high))
        return ends[0], ends[1]


@dataclass(frozen=True)
class Negligible:
    """The metric that shows that an effect is too small for the gated metric to decide.

    A ratio of two tiny quantities says nothing. The gate then passes, and says why.

    Attributes:
        metric: its name.
        limit: at most this value is negligible.
    """

    metric: str
    limit: float


class MetricValue(Protocol):
    """What a comparison reads of a metric: of a run, of a baseline, or on a leaderboard."""

    @property
    def version(self) -> int:
        """Version of the metric's definition."""
        ...

    @property
    def value(self) -> float | None:
        """The value; None where it is undefined."""
        ...

    @property
    def ci(self) -> Interval | None:
        """Its interval; None where there is none."""
        ...


@dataclass(frozen=True)
class Metric:
    """One number with its unit, direction, version and uncertainty.

    ``value`` is None where the metric is undefined on this data; ``note`` then gives the reason.

    Attributes:
        fallback: the metric that a gate reads instead of an undefined one.
        if_undefined: the verdict of a gate on an undefined metric without a fallback: FAIL where
            the reason is a fault of the SAE.
        negligible: what shows that the effect is too small to be decided by this metric.
        decides: False where the metric is reported, and a gate on it is a secondary one.
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
    fallback: Fallback | None = None
    if_undefined: Verdict = Verdict.ERROR
    negligible: Negligible | None = None
    decides: bool = True


@dataclass(frozen=True)
class Evidence:
    """The p-values for and against a secondary gate.

    Attributes:
        p_within: one-sided p of "the limit does not hold": small shows that it does.
        p_beyond: one-sided p of "the limit holds": small shows that it does not.
        adjusted_within: p_within, corrected for all of the run's secondary gates.
        adjusted_beyond: p_beyond, likewise.
        corrected_for: the number of those gates.
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
    A ``secondary`` gate does not affect the case's verdict; its own is corrected for multiplicity.
    ``why`` is the rule's reason, as the threshold file gives it; None where it gives none.
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
    why: str | None = None

    @property
    def shown(self) -> str:
        """The verdict, for tables: a secondary gate's says so."""
        return f"{self.verdict.value}, secondary" if self.secondary else self.verdict.value

    @property
    def change(self) -> float | None:
        """Observed less baseline; None where either is missing."""
        if self.baseline is None or self.observed is None:
            return None
        return self.observed - self.baseline


@dataclass(frozen=True)
class Basis:
    """The model, tokens and noise of a case: cases that differ in these are never compared.

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
    """One property of one SAE: its metrics, its gates and their verdict.

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
    def by_name(self) -> dict[str, Metric]:
        """The metrics by name."""
        return {metric.name: metric for metric in self.metrics}

    @builtins.property
    def deciding(self) -> tuple[GateResult, ...]:
        """The gates that decide the verdict."""
        return tuple(gate for gate in self.gates if not gate.secondary)

    def metric(self, name: str) -> Metric | None:
        """Return the metric of a name, which may be undefined; None where it is not reported."""
        return next((metric for metric in self.metrics if metric.name == name), None)

    @builtins.property
    def kind(self) -> str:
        """The case's id without its SAE: the same property and parameters of another SAE."""
        return self.id.removesuffix(f"@{self.sae}")

    @builtins.property
    def about(self) -> tuple[str, ...]:
        """The ids of its SAEs: one, or a pair's two."""
        pair = tuple(self.params[key] for key in ("first", "second") if key in self.params)
        return pair if len(pair) == 2 else (self.sae,)

    def defined(self, name: str) -> Metric | None:
        """Return the metric of a name if it has a value."""
        metric = self.metric(name)
        return metric if metric is not None and metric.value is not None else None


OVERLAPS = 0.05  # share of the judged sequences, above which a verdict says that they overlap


@dataclass(frozen=True)
class TrainingOverlap:
    """How many judged sequences occur in the texts that an SAE was trained on.

    Attributes:
        texts: their name.
        sequences: number of judged sequences.
        found: number of those of which more than half of the 13-grams occur in the training
            texts; None where these could not be read.
        tokens: number of the training texts' tokens that were read.
        complete: whether that was all of them.
    """

    texts: str
    sequences: int
    found: int | None = None
    tokens: int = 0
    complete: bool = False

    @property
    def is_large(self) -> bool:
        """True where so many occur that the verdict is about training texts."""
        return self.found is not None and self.found > OVERLAPS * self.sequences

    @property
    def sentence(self) -> str:
        """The overlap in words.

        Example:
            >>> TrainingOverlap("train", 512, 3, 1000, True).sentence
            '3 of 512 judged sequences occur in the training texts (train, all 1,000 tokens)'
        """
        if self.found is None:
            return (
                f"measured on {self.texts}, the text that this SAE was trained on, by its name; "
                "whether the sequences occur there was not measured: --sae-trained-on FILE does"
            )
        read = f"{'all' if self.complete else 'the first'} {self.tokens:,} tokens"
        text = (
            f"{self.found} of {self.sequences} judged sequences occur in the training texts "
            f"({self.texts}, {read})"
        )
        return f"TRAINED ON JUDGED TEXTS: {text}; judge on others" if self.is_large else text


@dataclass(frozen=True)
class SubjectRecord:
    """The SAE that was judged; ``overlap`` is that of its training texts with the judged ones."""

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
    overlap: TrainingOverlap | None = None

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
    """A run's token sequences, and which of their tokens count.

    ``independent`` is the number of independent documents among the sequences or prompts: those
    that repeat each other, nearly or wholly, are one. None in older result files.
    """

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
    independent: int | None = None


@dataclass(frozen=True)
class Cost:
    """Time and memory of one measurement, of all the SAEs that shared it.

    Attributes:
        measured_on: sequences, long sequences, cloze prompts, controls, pairs, or which tokens
            alone.
        model: the model's name.
        saes: the SAEs' ids.
        tokens: tokens of the data.
        seconds: by stage: clean, encode, decode, noise, resume, readout, fold, overhead.
        peak_memory_bytes: the process's peak by then.
    """

    measured_on: str
    model: str
    saes: tuple[str, ...]
    tokens: int
    seconds: dict[str, float]
    peak_memory_bytes: int


@dataclass(frozen=True)
class Unjudged:
    """A case that decides about an SAE by the run's rules, and was not judged.

    Attributes:
        id: the case's.
        sae: the SAE's, or the pair's joined name.
        property: the property.
    """

    id: str
    sae: str
    property: str


@dataclass(frozen=True)
class RunRecord:
    """When and how a run was started, and how it ended.

    Attributes:
        status: the verdict on all cases together.
        complete: every selected case was judged, and no deciding one was left out.
        unjudged: the deciding cases that were left out; None in results of schema version 6 and
            older, which did not record it.
        allows_partial: ``--sae-allow-partial``: cases that were left out fail no exit code.
        least_documents: the number of independent documents that decides a gate, where the user
            gave one; None where it is saebench's own, and in older files, where one sufficed.
    """

    id: str
    status: str
    started: str
    finished: str | None
    argv: tuple[str, ...]
    profile: str
    seed: int
    complete: bool
    unjudged: tuple["Unjudged", ...] | None = ()
    allows_partial: bool = False
    least_documents: int | None = None


@dataclass(frozen=True)
class Run:
    """Everything about one run: the content of the result file.

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
        """The verdict on all cases together; INCOMPLETE where deciding ones are missing."""
        return self._with_unjudged(self.cases, is_whole=self.run.unjudged == ())

    def cases_of(self, sae: str) -> tuple[CaseResult, ...]:
        """Return the cases of one SAE, by its id."""
        return tuple(case for case in self.cases if case.sae == sae)

    @property
    def passed(self) -> bool:
        """True where every deciding case was judged, at least one gate decided, and all passed."""
        decided = [case for case in self.cases if case.deciding or case.error]
        is_whole = self.run.unjudged == () or self.run.allows_partial
        return self._with_unjudged(decided, is_whole=is_whole) is Verdict.PASS

    @property
    def judged(self) -> tuple[SubjectRecord, ...]:
        """The SAEs that have cases, in the run's order."""
        judged = {case.sae for case in self.cases}
        return tuple(sae for sae in self.saes if sae.id in judged)

    def verdict_of(self, sae: str) -> Verdict:
        """Return what the cases of an SAE come to; INCOMPLETE where deciding ones are missing."""
        return self._with_unjudged(self.cases_of(sae), is_whole=self.unjudged_of(sae) == ())

    def unjudged_of(self, sae: str) -> tuple[Unjudged, ...] | None:
        """Return the deciding cases of an SAE that were not judged; None if not recorded."""
        left_out = self.run.unjudged
        return None if left_out is None else tuple(each for each in left_out if each.sae == sae)

    @staticmethod
    def _with_unjudged(cases: Iterable[CaseResult], *, is_whole: bool) -> Verdict:
        verdicts = [case.verdict for case in cases]
        return overall(verdicts if is_whole else [*verdicts, Verdict.INCOMPLETE])

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


def _check(run: Run) -> None:
    """Refuse two SAEs of one id, cases of SAEs that the run does not list, and a malformed date.

    Raises:
        ValueError: naming the first.
    """
    known = {sae.id for sae in run.saes}
    if len(known) < len(run.saes):
        raise ValueError("two SAEs of one id")
    for case in run.cases:
        pair = (case.params.get("first"), case.params.get("second"))
        own = pair if "second" in case.params else (case.sae,)
        if not all(isinstance(sae, str) and sae in known for sae in own):
            raise ValueError(f"{case.id!r} is of no SAE in it")
    datetime.fromisoformat(run.run.started)


def _with_fallbacks(content: dict[str, Any]) -> dict[str, Any]:
    """Rename ``stand`` of version 4, which named the metric that a gate falls back to."""
    cases = content.get("cases")
    if not isinstance(cases, list):
        return content
    return content | {"cases": [_renamed(case) for case in cases]}


def _renamed(case: Any) -> Any:
    metrics = case.get("metrics") if isinstance(case, dict) else None
    if not isinstance(metrics, list):
        return case
    renamed = [
        {"fallback" if key == "stand" else key: value for key, value in metric.items()}
        if isinstance(metric, dict)
        else metric
        for metric in metrics
    ]
    return case | {"metrics": renamed}


def _without_unjudged(content: dict[str, Any]) -> dict[str, Any]:
    """Say that which deciding cases were left out is not known: version 6 did not record it."""
    run = content.get("run")
    return content | {"run": run | {"unjudged": None}} if isinstance(run, dict) else content


SCHEMA_VERSION = 7
RESULT = Schema(
    Run,
    SCHEMA_VERSION,
    "saebench result file",
    upgrades={
        1: unchanged,  # 2 added each case's basis, which stays unknown, and the run's cost
        2: unchanged,  # 3 added by how much a gated metric is worse than its baseline
        3: unchanged,  # 4 added secondary gates
        4: _with_fallbacks,  # 5 added why a gate's rule exists
        5: unchanged,  # 6 added what decides a metric that is undefined, or negligible
        6: _without_unjudged,  # 7 added which deciding cases were not judged
    },
    check=_check,
)
