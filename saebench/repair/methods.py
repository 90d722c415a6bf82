"""The methods of repair: which parameters each of them fits. No torch here."""

from enum import StrEnum


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
