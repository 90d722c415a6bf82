"""A repair: its recipe, its course, the metrics before and after, and which features changed."""

from dataclasses import dataclass
from typing import Any

from saebench.records.run import (
    LEVEL,
    DatasetRecord,
    Direction,
    Interval,
    ModelRecord,
    SubjectRecord,
)
from saebench.records.schema import Schema, unchanged


@dataclass(frozen=True)
class Ranged:
    """A number with its interval; None where it is undefined, or has no interval."""

    value: float | None
    ci: Interval | None = None

    @classmethod
    def of(cls, value: float | None, low: float | None, high: float | None) -> "Ranged":
        """Return a number with the ends of its 95% interval; without one where an end is None."""
        if low is None or high is None:
            return cls(value)
        return cls(value, Interval(low, high, LEVEL, ""))

    @property
    def low(self) -> float | None:
        """The interval's lower end."""
        return None if self.ci is None else self.ci.low

    @property
    def high(self) -> float | None:
        """The interval's upper end."""
        return None if self.ci is None else self.ci.high

    def interval(self, form: str) -> str | None:
        """Return the interval as text; None where there is none.

        Example:
            >>> Ranged(0.5, Interval(0.25, 0.75, 0.95, "bootstrap")).interval("+.1f")
            '[+0.2, +0.8]'
        """
        return None if self.ci is None else self.ci.text(form)

    def negated(self) -> "Ranged":
        """Return the number with its sign turned, and its interval likewise."""
        if self.value is None or self.ci is None:
            return Ranged(None if self.value is None else -self.value)
        ends = Interval(-self.ci.high, -self.ci.low, self.ci.level, self.ci.method)
        return Ranged(-self.value, ends)


def with_intervals(content: Any) -> Any:
    """Return a file's content with its numbers' intervals as such: older files hold two ends.

    Example:
        >>> with_intervals({"share": {"value": 0.5, "low": None, "high": None}})
        {'share': {'value': 0.5, 'ci': None}}
    """
    if isinstance(content, list):
        return [with_intervals(each) for each in content]
    if not isinstance(content, dict):
        return content
    if "value" not in content or not set(content) <= {"value", "low", "high"}:
        return {key: with_intervals(value) for key, value in content.items()}
    low, high = content.get("low"), content.get("high")
    none = low is None or high is None
    ci = None if none else {"low": low, "high": high, "level": LEVEL, "method": ""}
    return {"value": content["value"], "ci": ci}


@dataclass(frozen=True)
class RepairRow:
    """One metric before and after, on the same tokens.

    Attributes:
        metric: as in docs/metrics.md, or ``perplexity``, ``perplexity_gap``, ``dead_features``.
        unit: of the three numbers; "" for a count.
        direction: which way is better.
        target: the best value, where the direction is a target.
        before: the metric of the SAE.
        after: the metric of the repaired SAE.
        change: after less before, paired over sequences.
        share: change as a share of the value before, paired over sequences.
    """

    metric: str
    unit: str
    direction: Direction
    target: float | None
    before: Ranged
    after: Ranged
    change: Ranged
    share: Ranged


@dataclass(frozen=True)
class RepairRecipe:
    """The repair's settings: everything that the result depends on."""

    method: str
    fitted: tuple[str, ...]
    tokens: int
    learning_rate: float
    batch_tokens: int
    tolerance: float
    patience: int
    seed: int


@dataclass(frozen=True)
class CourseRow:
    """One check during the fit: tokens so far, mean training loss since the last, its own loss."""

    tokens: int
    loss: float | None
    check: float


@dataclass(frozen=True)
class RepairCourse:
    """The course of the fit.

    Attributes:
        tokens: the number of activations fitted on.
        converged: the fit ended because it no longer improved.
        duration_s: of this process; a resumed fit counts from where it was resumed.
        texts: the name of the texts.
        texts_fingerprint: SHA-256 of their token rows.
        texts_tokens: counted tokens of one pass.
        passes: over the texts.
        flips: how often a feature is active in the saved SAE and was not before, or the reverse,
            of ``flips_of`` activations times features.
        checks: losses in order, the first before any step.
    """

    tokens: int
    converged: bool
    duration_s: float
    texts: str
    texts_fingerprint: str
    texts_tokens: int
    passes: float
    flips: int
    flips_of: int
    checks: tuple[CourseRow, ...]


@dataclass(frozen=True)
class Correlation:
    """Pearson's correlation over features; a partial one controls for ``given``."""

    x: str
    y: str
    given: str | None
    r: Ranged


@dataclass(frozen=True)
class FeatureAnalysis:
    """Which features were scaled, and by how much.

    Strength is a feature's mean activation where it is on, times its decoder row's norm; all of
    the SAE before repair.

    Attributes:
        tokens: activations that strengths and frequencies were counted on.
        features: the number of features analysed.
        left_out: the number that are active on fewer than ``least_tokens`` tokens.
        least_tokens: see there.
        correlations: of scaling, and of the additive change, with log strength and log frequency.
        scaling_mean: mean over features of the decoder row's norm after, divided by that before.
        additive_mean: mean over features of (scaling - 1)·strength.
        additive_median: the median of the same.
        additive_theory: c·d/2, by which the sparsity penalty shrinks a feature that is active
            alone; None where the penalty is unknown or of another kind.
        cosine_mean: mean cosine of decoder rows before and after.
        cosine_lowest: the lowest of them.
        log_strength: by feature, natural logarithms.
        log_frequency: by feature, of the share of tokens on which it is active.
        scaling: by feature.
        additive: by feature.
        cosine: by feature.
    """

    tokens: int
    features: int
    left_out: int
    least_tokens: int
    correlations: tuple[Correlation, ...]
    scaling_mean: float
    additive_mean: float
    additive_median: float
    additive_theory: float | None
    cosine_mean: float
    cosine_lowest: float
    log_strength: tuple[float, ...]
    log_frequency: tuple[float, ...]
    scaling: tuple[float, ...]
    additive: tuple[float, ...]
    cosine: tuple[float, ...]


@dataclass(frozen=True)
class GateChange:
    """A gate's verdict before and after."""

    rule: str
    before: str
    after: str


@dataclass(frozen=True)
class RepairRecord:
    """Everything about one repair: the content of its JSON file."""

    schema_version: int
    harness: dict[str, str]
    env: dict[str, str]
    before: SubjectRecord
    after: SubjectRecord
    model: ModelRecord
    recipe: RepairRecipe
    course: RepairCourse
    judged_on: DatasetRecord
    rows: tuple[RepairRow, ...]
    gates: tuple[GateChange, ...]
    analysis: FeatureAnalysis | None
    notes: tuple[str, ...] = ()

    def row(self, metric: str) -> RepairRow:
        """Return one metric's row.

        Raises:
            KeyError: where it was not judged.
        """
        for row in self.rows:
            if row.metric == metric:
                return row
        raise KeyError(metric)


def _check(record: RepairRecord) -> None:
    if all(row.metric != GAP for row in record.rows):
        raise ValueError(f"it has no row {GAP!r}")


GAP = "perplexity_gap"
REPAIR_SCHEMA_VERSION = 3
REPAIR = Schema(
    RepairRecord,
    REPAIR_SCHEMA_VERSION,
    "saebench repair file",
    noun="repair",
    upgrades={
        1: with_intervals,
        2: unchanged,  # 3 added independent documents and the overlap with training texts
    },
    check=_check,
)
