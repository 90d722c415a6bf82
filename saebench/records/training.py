"""A training of an SAE: its recipe and its course."""

from dataclasses import dataclass

from saebench.records.inputs import ModelRecord
from saebench.records.schema import Schema


@dataclass(frozen=True)
class TrainingRecipe:
    """The training's settings: everything that the result depends on.

    Attributes:
        objective: standard, frozen, intrusive or non-intrusive.
        loss: ``kl`` or ``next-token``; the standard objective uses neither.
        sparsity: as on the command line.
        init: ``random``, ``identity``, or the hash of the weights that the training began with.
        half_layers: module paths of the model's sublayers that were trained too, by side.
        tokens: the largest number of training tokens.
        batch_rows: rows of the context in a step.
        learning_rate: of AdamW.
        warm_up_tokens: over which the learning rate rises.
        clip: the largest norm of a gradient; None for no clipping.
        weight_decay: of AdamW.
        without_sae: loss weight of the patched model without the SAE.
        tolerance: a smaller relative gain over ``patience`` checks ends the training; 0 for never.
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
    """The trained SAE."""

    id: str
    weights_sha256: str
    architecture: str
    hook: str
    d_in: int
    d_sae: int
    context: int


@dataclass(frozen=True)
class TrainingCheck:
    """Tokens so far, mean training loss since the last check, and the check's own loss."""

    tokens: int
    loss: float | None
    check: float


@dataclass(frozen=True)
class TrainingCourse:
    """The course of a training.

    Attributes:
        tokens: the number of training tokens.
        converged: the training ended because it no longer improved.
        duration_s: of the process that ended it; a resumed one counts from where it was resumed.
        texts: the name of the texts.
        texts_fingerprint: SHA-256 of their token rows.
        texts_tokens: counted tokens of one pass.
        passes: over the texts.
        dead: features that are active on none of ``dead_of`` held-out tokens.
        dead_of: see there.
        l0: mean number of active features at a held-out token.
        host_moved: norm of the change of the model's trained sublayers, relative to their norm.
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


TRAINING_SCHEMA_VERSION = 1
TRAINING = Schema(
    TrainingRecord, TRAINING_SCHEMA_VERSION, "saebench training file", noun="training"
)
