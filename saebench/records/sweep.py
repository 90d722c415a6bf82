"""A sweep of trainings: the frontier of whole-model KL against L0."""

from dataclasses import dataclass

from saebench.records.inputs import DatasetRecord, ModelRecord
from saebench.records.repair import Ranged, with_intervals
from saebench.records.schema import Schema

KL, L0 = "whole_model_kl", "l0"


@dataclass(frozen=True)
class SweepPoint:
    """One SAE of a sweep.

    Attributes:
        equal: ``tokens`` or ``time``: the budget that is equal for all objectives.
        hook: the place in the model.
        sparsity: as on the command line.
        objective: of its training.
        directory: relative to the sweep's directory.
        tokens: of its training, after that of the standard SAE that all begin with.
        learning_rate: of its training.
        seconds: of the process that ended the training.
        converged: the training ended because it no longer improved.
        checks: the loss at each check of the training, in order.
        verdicts: by case.
        metrics: by a short name; ``whole_model_kl`` is the KL from the original model to the
            model with the SAE, patched where the training changed the model.
        against_standard: that KL less the KL of the standard SAE of the same hook, sparsity and
            ``equal``, paired over sequences; None for the standard SAE.
    """

    equal: str
    hook: str
    sparsity: str
    objective: str
    directory: str
    tokens: int
    learning_rate: float
    seconds: float
    converged: bool
    checks: tuple[float, ...]
    verdicts: dict[str, str]
    metrics: dict[str, Ranged]
    against_standard: Ranged | None = None


@dataclass(frozen=True)
class SweepRecord:
    """Everything about one sweep: the content of sweep.json.

    Attributes:
        model: the original model.
        loss: ``kl`` or ``next-token``.
        texts: the name of the training texts.
        texts_tokens: counted tokens of one pass over them, as far as they were needed.
        init_tokens: training tokens of the standard SAE that all begin with.
        judged_on: the sequences that the points were judged on.
        points: in the order of their training.
    """

    schema_version: int
    harness: dict[str, str]
    env: dict[str, str]
    model: ModelRecord
    loss: str
    texts: str
    texts_tokens: int
    init_tokens: int
    judged_on: DatasetRecord
    points: tuple[SweepPoint, ...]


SWEEP_SCHEMA_VERSION = 3
SWEEP = Schema(
    SweepRecord,
    SWEEP_SCHEMA_VERSION,
    "saebench training sweep file",
    noun="training sweep",
    upgrades={2: with_intervals},  # version 1 lacks each point's learning rate
)
