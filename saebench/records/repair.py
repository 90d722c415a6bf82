"""What a repair found: its recipe, its course, before and after, and why. Data only."""

from dataclasses import asdict, dataclass
from typing import Any

from saebench.records.run import DatasetRecord, Direction, ModelRecord, SubjectRecord

REPAIR_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Ranged:
    """A number with its 95% interval; None where it is undefined, or has no interval."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def interval(self, form: str) -> str | None:
        """Return the interval as text; None where an end is missing, as a file may have it.

        Example:
            >>> Ranged(0.5, 0.25, 0.75).interval("+.1f")
            '[+0.2, +0.8]'
        """
        if self.low is None or self.high is None:
            return None
        return f"[{self.low:{form}}, {self.high:{form}}]"


@dataclass(frozen=True)
class RepairRow:
    """One metric before and after, on the same tokens.

    Attributes:
        metric: as in METRICS.md, or ``perplexity``, ``perplexity_gap``, ``dead_features``.
        unit: of the three numbers; "" for a count.
        direction: which way is better.
        target: the best value, where the direction is a target.
        before: the SAE's.
        after: the repaired SAE's.
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
    """What was asked for: all that shapes the result."""

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
    """One check of the fit: tokens done, the steps' mean loss since the last, the check's."""

    tokens: int
    loss: float | None
    check: float


@dataclass(frozen=True)
class RepairCourse:
    """How the fit went.

    Attributes:
        tokens: activations that were fitted on.
        converged: it ended because it no longer improved.
        duration_s: of this process; a resumed fit counts from where it was resumed.
        texts: what the texts are called.
        texts_fingerprint: SHA-256 of their token rows.
        texts_tokens: counted tokens of one pass.
        passes: how often they were gone through.
        flips: features that are on in the saved SAE and were off, or the other way round, on
            ``flips_of`` activations times features.
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
    """Pearson's correlation over features; ``given`` is what is held fixed in a partial one."""

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
        features: how many are looked at.
        left_out: how many fire on too few tokens.
        least_tokens: fewer than these are too few.
        correlations: of scaling, and of the additive change, with log strength and log frequency.
        scaling_mean: mean over features of the norm of the decoder row after, by that before.
        additive_mean: mean over features of (scaling - 1)·strength.
        additive_median: the median of the same.
        additive_theory: c·d/2, what the penalty takes off a feature that is alone; None where the
            penalty is not known or of another kind.
        cosine_mean: mean cosine of decoder rows before and after.
        cosine_lowest: the lowest of them.
        log_strength: one a feature, natural logarithms.
        log_frequency: share of tokens on which it is on, likewise.
        scaling: one a feature.
        additive: one a feature.
        cosine: one a feature.
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
    """Everything one repair found: the content of its JSON file."""

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

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain dictionaries and lists, as in its file."""
        return asdict(self)
