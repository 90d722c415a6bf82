"""Repair of feature suppression: the methods, and the job. Loads no torch."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from saebench.fit import NOT_NEGATIVE, SEED, SHARE, FitJob, Plan, number
from saebench.options import Overrides, Settings


class Method(StrEnum):
    """What is fitted without the sparsity penalty; the baseline continues the training with it.

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
        """True where the encoder is frozen, so that no feature changes."""
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
class RepairJob(FitJob):
    """What a repair is asked to do; numbers carry their own help.

    Attributes:
        sae: a SPEC that names one SAE.
        out: the directory to write.
        method: which parameters are fitted.
        model: the host model; None takes the SAE's metadata, or the demo's own.
        overrides: what the SAE's metadata lacks.
    """

    sae: str
    out: Path
    method: Method
    model: str | None = None
    max_passes: int = number(10, "how often the texts are gone through for them")
    sequences: int = number(512, "how many sequences are judged")
    batch_tokens: int = number(2048, "activations in a step")
    tolerance: float = number(
        1e-3, "less gain than this share over --patience checks ends the fit", SHARE
    )
    seed: int = number(0, "of the shuffling and of the judgement's noise", SEED)
    coefficient: float | None = number(
        None,
        "of the sparsity penalty that the SAE was trained with, in the activations' units "
        "(default: the metadata's, brought to them)",
        NOT_NEGATIVE,
        kind=float,
    )
    overrides: Overrides = field(default_factory=Overrides)

    @property
    def settings(self) -> Settings:
        """The settings that the two SAEs are judged with."""
        return Settings(
            model=self.model, dataset=self.dataset, sequences=self.sequences, seed=self.seed,
            device=self.device, dtype=self.dtype, overrides=self.overrides,
        )  # fmt: skip

    @property
    def plan(self) -> Plan:
        """How long the fit goes on, and how fast.

        The baseline minimises another loss than the one that is checked, so that a check does not
        show whether it has converged: it goes on for all tokens.
        """
        tolerance = 0.0 if self.method is Method.BASELINE else self.tolerance
        check_tokens = self.check_tokens(self.batch_tokens)
        return Plan(
            self.tokens, self.learning_rate, check_tokens, patience=self.patience,
            tolerance=tolerance,
        )  # fmt: skip
