"""Trainings of SAEs: objectives, losses, sparsity, and the job. Loads no torch."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from saebench.errors import OptionError, nearest
from saebench.fit import NOT_NEGATIVE, SEED, SHARE, FitJob, Plan, Range, check_numbers, number
from saebench.options import Packing, Settings

IDENTITY, RANDOM, DEMO = "identity", "random", "demo"
SIDES = ("before", "after")
CLIP = 1.0


class Objective(StrEnum):
    """The loss that a training minimises, and the parameters that it may change.

    Source:
        "Sparse Autoencoders with Whole Model Reconstruction Loss", 2024.
    """

    STANDARD = "standard"
    FROZEN = "frozen"
    INTRUSIVE = "intrusive"
    NON_INTRUSIVE = "non-intrusive"

    @property
    def is_whole_model(self) -> bool:
        """True where the loss is the whole model's."""
        return self is not Objective.STANDARD

    @property
    def trains_sublayers(self) -> bool:
        """True where the half-layers next to the SAE are trained too."""
        return self in (Objective.INTRUSIVE, Objective.NON_INTRUSIVE)


class Loss(StrEnum):
    """The whole model's loss: KL to the original model, or the true next token's."""

    KL = "kl"
    NEXT_TOKEN = "next-token"


SUMMARIES = {
    Objective.STANDARD: "the activation's squared error: SAELens' own training",
    Objective.FROZEN: "the whole model's loss with the SAE in it; the model stays as it is",
    Objective.INTRUSIVE: "the same, and the half-layers next to the SAE are trained too",
    Objective.NON_INTRUSIVE: "the same, and the changed model without the SAE stays close to the "
    "original",
}
ARCHITECTURES = {"l1": "standard", "topk": "topk", "batchtopk": "batchtopk"}


@dataclass(frozen=True)
class Sparsity:
    """The sparsity penalty, or the number of features a token.

    Attributes:
        kind: ``l1``, ``topk`` or ``batchtopk``.
        value: the penalty's coefficient, or the number of features a token.
        whole_model: for ``l1``, the coefficient that is added to the whole model's loss, which is
            in nats where the standard loss is in squared activations; None takes ``value``.
    """

    kind: str
    value: float
    whole_model: float | None = None

    @classmethod
    def parse(cls, text: str) -> "Sparsity":
        """Read ``l1:0.5``, ``l1:0.5/0.01``, ``topk:16`` or ``batchtopk:16``.

        Raises:
            OptionError: for anything else.

        Example:
            >>> Sparsity.parse("topk:16").value
            16.0
        """
        kind, _, number = text.partition(":")
        if kind not in ARCHITECTURES:
            raise OptionError(f"--sparsity {text}: no such kind{nearest(kind, ARCHITECTURES)}")
        first, _, second = number.partition("/")
        try:
            value, other = float(first), float(second) if second else None
        except ValueError:
            raise OptionError(f"--sparsity {text}: expected {kind}:NUMBER") from None
        sparsity = cls(kind, value, other)
        sparsity._check()
        return sparsity

    def _check(self) -> None:
        if self.kind == "l1":
            if not all(0 <= v < float("inf") for v in (self.value, self.whole_model or 0.0)):
                raise OptionError(f"--sparsity {self}: a coefficient is 0 or more")
        elif self.value < 1 or (self.kind == "topk" and not self.value.is_integer()):
            raise OptionError(f"--sparsity {self}: expected 1 feature a token or more")
        elif self.whole_model is not None:
            raise OptionError(f"--sparsity {self}: only l1 has a second coefficient")

    def __str__(self) -> str:
        second = "" if self.whole_model is None else f"/{self.whole_model:g}"
        return f"{self.kind}:{self.value:g}{second}"

    def coefficient(self, objective: Objective) -> float:
        """Return the L1 coefficient that goes with an objective's loss; 0 for TopK."""
        if self.kind != "l1":
            return 0.0
        if objective.is_whole_model and self.whole_model is not None:
            return self.whole_model
        return self.value

    def config(self) -> dict[str, Any]:
        """Return SAELens' configuration of it."""
        if self.kind == "l1":
            return {"architecture": "standard", "l1_coefficient": self.value}
        k = int(self.value) if self.kind == "topk" else self.value
        return {"architecture": ARCHITECTURES[self.kind], "k": k}


@dataclass(frozen=True)
class TrainJob(FitJob):
    """What a training is asked to do; numbers carry their own help.

    Attributes:
        objective: the loss that is minimised, and what may change.
        hook: where the SAE belongs.
        out: the directory to write.
        sparsity: the penalty, or the number of features a token.
        loss: of the whole model.
        model: a directory or name; ``demo`` is the embedded one.
        holdout_every: one document in so many is not trained on, but judged on; 0 trains on all.
        init: an SAE's SPEC, ``identity`` or ``random``; None trains a standard SAE first, where
            the objective is another.
        half_layers: the sides that are trained too, in intrusive objectives.
        checkpointing: recompute the later blocks when backpropagating, to save memory; None
            decides by their size.
        tensorboard: a directory to log to, or None.
        fixed_rate: refuse to resume with another learning rate.
    """

    objective: Objective
    hook: str
    out: Path
    sparsity: Sparsity
    loss: Loss = Loss.KL
    model: str = DEMO
    holdout_every: int = 0
    init: str | None = None
    init_tokens: int | None = number(
        None, "to train the standard SAE on that others begin with (default: as --tokens)", kind=int
    )
    half_layers: tuple[str, ...] = SIDES
    expansion: int = number(8, "features for each component of the activation")
    context: int = number(128, "tokens in a row", Range("3 or more", 3))
    batch_rows: int = number(16, "rows in a step")
    max_passes: int = number(50, "how often the texts are gone through, at most")
    warm_up: float = number(
        0.05, "share of the tokens over which the learning rate, and L1's coefficient, rise", SHARE
    )
    weight_decay: float = number(0.0, "AdamW's", NOT_NEGATIVE)
    clip: float = number(
        CLIP, "largest norm of a gradient of the whole model's loss; 0 does not clip", NOT_NEGATIVE
    )
    without_sae: float = number(
        1.0, "weight of the changed model's own loss, for non-intrusive", NOT_NEGATIVE
    )
    tolerance: float = number(
        0.0, "less gain than this share over --patience checks ends it; 0 never", SHARE
    )
    seed: int = number(0, "of the weights and of the shuffling", SEED)
    checkpointing: bool | None = None
    tensorboard: Path | None = None
    fixed_rate: bool = False

    @property
    def settings(self) -> Settings:
        """The settings that the model is loaded with."""
        return Settings(device=self.device, dtype=self.dtype)

    @property
    def is_demo(self) -> bool:
        """True where the embedded model is trained on."""
        return self.model == DEMO

    @property
    def trains_first(self) -> bool:
        """True where a standard SAE is to be trained to begin with."""
        return self.init is None and self.objective.is_whole_model

    @property
    def warm_up_tokens(self) -> int:
        """The first tokens, over which the learning rate and L1's coefficient rise."""
        return int(self.warm_up * self.tokens)

    @property
    def clip_norm(self) -> float | None:
        """The largest norm of a gradient; None does not clip."""
        return (self.clip or None) if self.objective.is_whole_model else None

    def plan(self, *, diverges_from: float) -> Plan:
        """Return how long the fit goes on, and how fast."""
        return Plan(
            self.tokens,
            self.learning_rate,
            self.check_tokens(self.batch_rows * (self.context - 1)),
            patience=self.patience,
            tolerance=self.tolerance,
            warm_up_tokens=self.warm_up_tokens,
            clip=self.clip_norm,
            weight_decay=self.weight_decay,
            diverges_from=diverges_from,
        )

    def identity(self) -> dict[str, Any]:
        """Return what a checkpoint must agree with; the learning rate may be lowered by hand."""
        names = ("hook", "expansion", "tokens", "context", "batch_rows",
                 "warm_up", "weight_decay", "clip", "without_sae", "tolerance", "patience",
                 "seed", "dtype", *(("learning_rate",) if self.fixed_rate else ()))  # fmt: skip
        return {name: getattr(self, name) for name in names} | {
            "objective": self.objective.value,
            "loss": self.loss.value,
            "sparsity": str(self.sparsity),
            "half layers": list(self.half_layers) if self.objective.trains_sublayers else [],
        }


@dataclass(frozen=True)
class Judging:
    """How the SAEs of a training are judged; numbers carry their own help.

    Attributes:
        dataset: the texts; None takes the documents that were not trained on.
        packing: how documents become sequences.
    """

    dataset: str | None = None
    sequences: int = number(256, "how many sequences are judged")
    packing: Packing = Packing.DOCUMENTS

    def __post_init__(self) -> None:
        """Refuse a number that is out of its range.

        Raises:
            OptionError: naming the option.
        """
        check_numbers(self)
