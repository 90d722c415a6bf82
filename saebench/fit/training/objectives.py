"""What an SAE may be trained for, and how it is kept sparse."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from saebench.errors import OptionError, nearest


class Objective(StrEnum):
    """What is made smaller, and what may change for it."""

    STANDARD = "standard"
    FROZEN = "frozen"
    INTRUSIVE = "intrusive"
    NON_INTRUSIVE = "non-intrusive"

    @property
    def is_whole_model(self) -> bool:
        """True where the loss is the whole model's."""
        return self is not Objective.STANDARD

    @property
    def trains_halves(self) -> bool:
        """True where the half-layers beside the SAE are trained too."""
        return self in (Objective.INTRUSIVE, Objective.NON_INTRUSIVE)


class Loss(StrEnum):
    """How the whole model's output is held against what it should be."""

    KL = "kl"
    NEXT_TOKEN = "next-token"


SUMMARIES = {
    Objective.STANDARD: "the activation's squared error: SAELens' own training",
    Objective.FROZEN: "the whole model's loss with the SAE in it; the model stays as it is",
    Objective.INTRUSIVE: "the same, and the half-layers beside the SAE are trained too",
    Objective.NON_INTRUSIVE: "the same, and the changed model without the SAE is held to the "
    "original too",
}
ARCHITECTURES = {"l1": "standard", "topk": "topk", "batchtopk": "batchtopk"}


@dataclass(frozen=True)
class Sparsity:
    """What keeps the features few.

    Attributes:
        kind: ``l1``, ``topk`` or ``batchtopk``.
        value: the penalty's coefficient, or how many features are kept a token.
        whole_model: for ``l1``, the coefficient beside the whole model's loss, which is in nats
            where the standard one is in squared activations; None takes ``value``.
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
        found = cls(kind, value, other)
        found.check()
        return found

    def check(self) -> None:
        """Refuse values that cannot be.

        Raises:
            OptionError: saying which.
        """
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
        """Return the L1 coefficient beside an objective's loss; 0 for TopK."""
        if self.kind != "l1":
            return 0.0
        if objective.is_whole_model and self.whole_model is not None:
            return self.whole_model
        return self.value

    def config(self) -> dict[str, Any]:
        """Return SAELens' options for it."""
        if self.kind == "l1":
            return {"architecture": "standard", "l1_coefficient": self.value}
        k = int(self.value) if self.kind == "topk" else self.value
        return {"architecture": ARCHITECTURES[self.kind], "k": k}
