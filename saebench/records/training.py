"""What a training was and how it went. Data only."""

from dataclasses import asdict, dataclass
from typing import Any

from saebench.records.run import ModelRecord

TRAINING_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class TrainingRecipe:
    """What was asked for: all that shapes the result.

    Attributes:
        objective: standard, frozen, intrusive or non-intrusive.
        loss: ``kl`` or ``next-token``; of no account for standard.
        sparsity: as on the command line.
        init: ``random``, ``identity``, or the SAE that was begun from, by its weights' hash.
        half_layers: module paths of what was trained beside the SAE, by side.
        tokens: how many at most.
        batch_rows: rows of the context in a step.
        learning_rate: of AdamW.
        warm_up_tokens: over which it rises.
        clip: the largest norm of a gradient.
        weight_decay: AdamW's.
        without_sae: weight of the changed model's own loss.
        tolerance: less gain than this share over ``patience`` checks ends the fit; 0 never.
        patience: in checks.
        seed: of weights and shuffling.
    """

    objective: str
    loss: str
    sparsity: str
    init: str
    half_layers: dict[str, str]
    tokens: int
    batch_rows: int
    learning_rate: float
    warm_up_tokens: int
    clip: float | None
    weight_decay: float
    without_sae: float
    tolerance: float
    patience: int
    seed: int


@dataclass(frozen=True)
class TrainedRecord:
    """The SAE that came of it."""

    id: str
    weights_sha256: str
    architecture: str
    hook: str
    d_in: int
    d_sae: int
    context: int


@dataclass(frozen=True)
class TrainingCheck:
    """Tokens done, the steps' mean loss since the last check, and the check's own."""

    tokens: int
    loss: float | None
    check: float


@dataclass(frozen=True)
class TrainingCourse:
    """How it went.

    Attributes:
        tokens: that were fitted on.
        converged: it ended because it no longer improved.
        duration_s: of the process that ended it; a resumed one counts from there.
        texts: what the texts are called.
        texts_fingerprint: SHA-256 of their token rows.
        texts_tokens: counted tokens of one pass.
        passes: how often they were gone through.
        dead: features that fire on none of ``dead_of`` held tokens.
        dead_of: see there.
        l0: features that fire at a held token, on average.
        host_moved: how far the half-layers' weights moved, as a share of their norm.
        checks: in order, the first before any step.
    """

    tokens: int
    converged: bool
    duration_s: float
    texts: str
    texts_fingerprint: str
    texts_tokens: int
    passes: float
    dead: int
    dead_of: int
    l0: float
    host_moved: float | None
    checks: tuple[TrainingCheck, ...]


@dataclass(frozen=True)
class TrainingRecord:
    """Everything about one training: the content of training.json."""

    schema_version: int
    harness: dict[str, str]
    env: dict[str, str]
    sae: TrainedRecord
    model: ModelRecord
    recipe: TrainingRecipe
    course: TrainingCourse
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain dictionaries and lists, as in its file."""
        return asdict(self)
