"""What a training is asked to do, and what of it cannot be."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saebench.errors import OptionError
from saebench.fitting.loop import Plan
from saebench.settings import Settings
from saebench.training.halves import SIDES
from saebench.training.objectives import Loss, Objective, Sparsity

IDENTITY, RANDOM = "identity", "random"
CLIP = 1.0


@dataclass(frozen=True)
class TrainJob:
    """What a training was asked to do.

    Attributes:
        objective: what is made smaller.
        hook: where the SAE belongs.
        out: the directory to write.
        sparsity: what keeps the features few.
        loss: how the whole model's output is held to account.
        model: a directory or name; ``demo`` is the embedded one.
        dataset: the texts; None takes the demo's own.
        keep_apart: one document in so many is not trained on, to be judged on; 0 trains on all.
        judged: texts that it is to be judged on; refused where the training's hold any of them.
        expansion: features for each component of the activation.
        tokens: to train on, at most.
        init: an SAE's SPEC, ``identity`` or ``random``; None trains a standard SAE first, where
            the objective is another.
        init_tokens: to train that one on; None takes ``tokens``.
        half_layers: the sides that are trained too, in intrusive objectives.
        context: tokens in a row.
        batch_rows: rows in a step.
        max_passes: how often the texts are gone through, at most.
        learning_rate: of AdamW.
        warm_up: share of the tokens over which it, and the L1 coefficient, rise.
        weight_decay: AdamW's.
        clip: the largest norm of a gradient; 0 leaves them.
        without_sae: weight of the changed model's own loss, for non-intrusive.
        tolerance: less gain than this share over ``patience`` checks ends it; 0 never.
        patience: in checks, of which there are twenty or more.
        checkpointing: keep only the later blocks' inputs for the way back; None decides by size.
        seed: of weights and shuffling.
        device: ``auto``, or a torch device.
        dtype: of the model.
        tensorboard: a directory to log to, or None.
        force: replace ``out``, and begin anew where a checkpoint is.
        resume: go on from the checkpoint.
        keep_rate: not with another learning rate.
    """

    objective: Objective
    hook: str
    out: Path
    sparsity: Sparsity
    loss: Loss = Loss.KL
    model: str = "demo"
    dataset: str | None = None
    keep_apart: int = 0
    judged: str | None = None
    expansion: int = 8
    tokens: int = 2_000_000
    init: str | None = None
    init_tokens: int | None = None
    half_layers: tuple[str, ...] = SIDES
    context: int = 128
    batch_rows: int = 16
    max_passes: int = 50
    learning_rate: float = 1e-3
    warm_up: float = 0.05
    weight_decay: float = 0.0
    clip: float = CLIP
    without_sae: float = 1.0
    tolerance: float = 0.0
    patience: int = 5
    checkpointing: bool | None = None
    seed: int = 0
    device: str = "auto"
    dtype: str = "float32"
    tensorboard: Path | None = None
    force: bool = False
    resume: bool = False
    keep_rate: bool = False

    def __post_init__(self) -> None:
        """Refuse values that no training can have.

        Raises:
            OptionError: naming the option.
        """
        _refuse_too_small(self)
        if not 0 < self.learning_rate < float("inf"):
            raise OptionError(f"--learning-rate must be above 0, found {self.learning_rate}")
        for name in ("warm_up", "tolerance"):
            if not 0 <= getattr(self, name) < 1:
                raise OptionError(
                    f"{_option(name)} must be a share, 0 to 1, found {getattr(self, name)}"
                )
        for name in ("weight_decay", "clip", "without_sae"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise OptionError(f"{_option(name)} must be 0 or more, found {getattr(self, name)}")
        if not 0 <= self.seed < 1 << 31:
            raise OptionError(f"--seed must be 0 to {(1 << 31) - 1}, found {self.seed}")
        if self.resume and self.force:
            raise OptionError("--resume goes on, --force starts anew: give one of the two")

    @property
    def settings(self) -> Settings:
        """What of it the gate knows too."""
        return Settings(device=self.device, dtype=self.dtype)

    @property
    def is_demo(self) -> bool:
        """True where the embedded model is trained on."""
        return self.model == "demo"

    @property
    def trains_first(self) -> bool:
        """True where a standard SAE is to be trained to begin with."""
        return self.init is None and self.objective.is_whole_model

    def plan(self, *, diverges_from: float) -> Plan:
        """Return how it is fitted: twenty checks, or more where the tokens are many."""
        row = self.batch_rows * (self.context - 1)
        return Plan(
            self.tokens,
            self.learning_rate,
            min(1_000_000, max(row, self.tokens // 20)),
            patience=self.patience,
            tolerance=self.tolerance,
            warm_up_tokens=int(self.warm_up * self.tokens),
            clip=(self.clip or None) if self.objective.is_whole_model else None,
            weight_decay=self.weight_decay,
            diverges_from=diverges_from,
        )

    def identity(self) -> dict[str, Any]:
        """Return what a checkpoint must have been begun with; a rate may be lowered by hand."""
        names = ("hook", "expansion", "tokens", "context", "batch_rows",
                 "warm_up", "weight_decay", "clip", "without_sae", "tolerance", "patience",
                 "seed", "dtype", *(("learning_rate",) if self.keep_rate else ()))  # fmt: skip
        return {name: getattr(self, name) for name in names} | {
            "objective": self.objective.value,
            "loss": self.loss.value,
            "sparsity": str(self.sparsity),
            "half layers": list(self.half_layers) if self.objective.trains_halves else [],
        }


def _refuse_too_small(job: TrainJob) -> None:
    for name in ("tokens", "expansion", "batch_rows", "max_passes", "patience", "init_tokens"):
        value = getattr(job, name)
        if value is not None and value < 1:
            raise OptionError(f"{_option(name)} must be 1 or more, found {value}")
    if job.context < 3:
        raise OptionError(f"--context must be 3 or more, found {job.context}")


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
