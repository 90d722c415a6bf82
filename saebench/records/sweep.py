"""What a sweep of trainings found: the frontier of whole-model KL against L0. Data only."""

from dataclasses import asdict, dataclass
from typing import Any

from saebench.records.repair import Ranged
from saebench.records.run import DatasetRecord, ModelRecord

SWEEP_SCHEMA_VERSION = 2  # 2: each point's learning rate
KL, L0 = "whole_model_kl", "l0"


@dataclass(frozen=True)
class SweepPoint:
    """One SAE of a sweep.

    Attributes:
        equal: ``tokens`` or ``time``: what the objectives were given the same of.
        hook: its place.
        sparsity: as on the command line.
        objective: what it was trained for.
        directory: where it lies, from the sweep's directory.
        tokens: that it was trained on after the standard SAE that all begin with.
        learning_rate: of its training.
        seconds: of the process that ended the training.
        converged: the training ended because it no longer improved.
        checks: the loss at each check of the training, in order.
        verdicts: the gate's, by case.
        metrics: the gate's, by a name of their own; ``whole_model_kl`` is against the original
            model, with the SAE, in the patched model where there is one.
        against_standard: the same KL less that of the standard SAE of the same place, sparsity
            and ``equal``, paired over sequences; None for that one.
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
    """Everything one sweep found: the content of sweep.json.

    Attributes:
        model: the original.
        loss: ``kl`` or ``next-token``.
        texts: what was trained on.
        texts_tokens: counted tokens of one pass over it, as far as they were needed.
        init_tokens: what the standard SAE that all begin with was trained on.
        judged_on: the sequences.
        points: in the order that they were trained in.
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

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain dictionaries and lists, as in its file."""
        return asdict(self)
