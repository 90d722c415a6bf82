"""The methods of repair: which parameters each of them fits. No torch here."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from saebench.errors import OptionError
from saebench.fit.plan import Plan
from saebench.options import Overrides, Settings


class Method(StrEnum):
    """What is fitted, without the sparsity penalty; the baseline goes on training with it.

    Source:
        Wright & Sharkey 2024, "Addressing feature suppression in SAEs", table 1.
    """

    SCALE = "scale"
    DECODER = "decoder"
    UNROTATED_DECODER = "unrotated-decoder"
    ENCODER = "encoder"
    UNROTATED_ENCODER = "unrotated-encoder"
    UNROTATED_ALL = "unrotated-all"
    BASELINE = "baseline"

    @property
    def fits_directions(self) -> bool:
        """True where the decoder's directions may turn."""
        return self is Method.DECODER

    @property
    def fits_output_bias(self) -> bool:
        """True where the decoder's bias is fitted."""
        return self in (Method.DECODER, Method.UNROTATED_DECODER, Method.UNROTATED_ALL)

    @property
    def encoder(self) -> tuple[str, ...]:
        """The encoder's parameters that are fitted, by SAELens' names."""
        return ENCODER_PARTS.get(self, ())

    @property
    def keeps_features(self) -> bool:
        """True where the encoder is frozen, so that every feature stays what it was."""
        return self is not Method.BASELINE and not self.encoder


BIASES = ("b_enc", "b_gate", "b_mag")
ENCODER_PARTS = {
    Method.ENCODER: ("W_enc", "r_mag", *BIASES),
    Method.UNROTATED_ENCODER: BIASES,
    Method.UNROTATED_ALL: BIASES,
}
SUMMARIES = {
    Method.SCALE: "one factor for each feature",
    Method.DECODER: "factors, decoder directions and output bias",
    Method.UNROTATED_DECODER: "factors and output bias; directions stay",
    Method.ENCODER: "factors, encoder directions and biases; features change",
    Method.UNROTATED_ENCODER: "factors and encoder biases; features change",
    Method.UNROTATED_ALL: "factors, encoder biases and output bias; features change",
    Method.BASELINE: "goes on with the SAE's own training, penalty included",
}


@dataclass(frozen=True)
class RepairJob:
    """What a repair was asked to do.

    Attributes:
        sae: a SPEC that names one SAE.
        out: the directory to write.
        method: which parameters are fitted.
        model: the host model; None takes the SAE's metadata, or the demo's own.
        dataset: the texts to fit on; None takes the demo's own.
        judged: the texts to judge on; None keeps one document in ten of the others apart.
        tokens: activations to fit on, at most.
        max_passes: how often the texts are gone through for them, at most.
        sequences: how many sequences are judged.
        batch_tokens: activations in a step.
        learning_rate: of Adam.
        tolerance: a gain below this share, over ``patience`` checks, ends the fit; the baseline's
            never.
        patience: see there.
        seed: of the shuffling, and of the gate's noise.
        coefficient: of the penalty that the SAE was trained with; None finds it.
        device: ``auto``, or a torch device.
        dtype: of the model.
        overrides: what the SAE's metadata lacks.
        force: replace ``out``, and begin anew where a checkpoint is.
        resume: go on from the checkpoint.
    """

    sae: str
    out: Path
    method: Method
    model: str | None = None
    dataset: str | None = None
    judged: str | None = None
    tokens: int = 2_000_000
    max_passes: int = 10
    sequences: int = 512
    batch_tokens: int = 2048
    learning_rate: float = 1e-3
    tolerance: float = 1e-3
    patience: int = 5
    seed: int = 0
    coefficient: float | None = None
    device: str = "auto"
    dtype: str = "float32"
    overrides: Overrides = field(default_factory=Overrides)
    force: bool = False
    resume: bool = False

    def __post_init__(self) -> None:
        """Refuse values that no repair can have.

        Raises:
            OptionError: naming the option.
        """
        for name in ("tokens", "max_passes", "sequences", "batch_tokens", "patience"):
            if getattr(self, name) < 1:
                option = "--" + name.replace("_", "-")
                raise OptionError(f"{option} must be 1 or more, found {getattr(self, name)}")
        if not 0 < self.learning_rate < float("inf"):
            raise OptionError(f"--learning-rate must be above 0, found {self.learning_rate}")
        if not 0 <= self.tolerance < 1:
            raise OptionError(f"--tolerance must be a share, 0 to 1, found {self.tolerance}")
        if not 0 <= self.seed < 1 << 31:
            raise OptionError(f"--seed must be 0 to {(1 << 31) - 1}, found {self.seed}")
        if self.resume and self.force:
            raise OptionError("--resume goes on, --force starts anew: give one of the two")

    @property
    def settings(self) -> Settings:
        """What of it the gate knows too."""
        return Settings(
            model=self.model, dataset=self.dataset, sequences=self.sequences, seed=self.seed,
            device=self.device, dtype=self.dtype, overrides=self.overrides,
        )  # fmt: skip

    @property
    def plan(self) -> Plan:
        """How it is fitted: twenty checks, or more where the tokens are many.

        The baseline makes another loss smaller than the one that is checked, so that a check says
        nothing of its convergence: it goes on for all tokens.
        """
        check = min(1_000_000, max(self.batch_tokens, self.tokens // 20))
        tolerance = 0.0 if self.method is Method.BASELINE else self.tolerance
        return Plan(
            self.tokens, self.learning_rate, check, patience=self.patience, tolerance=tolerance
        )
