"""What was judged with what: the SAE, the language model, the data."""

import re
from dataclasses import dataclass

ALL_COUNT, FIRST, SPECIAL = "all positions", "position 0", "a special token"
"""Values of a data set's policies: which tokens count, and how each sequence begins."""
OVERLAPS = 0.05  # share of the judged sequences, above which a verdict says that they overlap


@dataclass(frozen=True)
class TrainingOverlap:
    """How many judged sequences occur in the texts that an SAE was trained on.

    Attributes:
        texts: their name.
        sequences: number of judged sequences.
        found: number of those of which more than half of the 13-grams occur in the training
            texts; None where these could not be read.
        tokens: number of the training texts' tokens that were read.
        complete: whether that was all of them.
    """

    texts: str
    sequences: int
    found: int | None = None
    tokens: int = 0
    complete: bool = False

    @property
    def is_large(self) -> bool:
        """True where so many occur that the verdict is about training texts."""
        return self.found is not None and self.found > OVERLAPS * self.sequences

    @property
    def sentence(self) -> str:
        """The overlap in words.

        Example:
            >>> TrainingOverlap("train", 512, 3, 1000, True).sentence
            '3 of 512 judged sequences occur in the training texts (train, all 1,000 tokens)'
        """
        if self.found is None:
            return (
                f"measured on {self.texts}, the text that this SAE was trained on, by its name; "
                "whether the sequences occur there was not measured: --sae-trained-on FILE does"
            )
        read = f"{'all' if self.complete else 'the first'} {self.tokens:,} tokens"
        text = (
            f"{self.found} of {self.sequences} judged sequences occur in the training texts "
            f"({self.texts}, {read})"
        )
        return f"TRAINED ON JUDGED TEXTS: {text}; judge on others" if self.is_large else text


@dataclass(frozen=True)
class SubjectRecord:
    """The SAE that was judged; ``overlap`` is that of its training texts with the judged ones."""

    id: str
    source: str
    weights_sha256: str
    config_sha256: str
    architecture: str
    hook: str
    hook_path: str
    d_in: int
    d_sae: int
    training_context: int | None
    notes: tuple[str, ...] = ()
    overlap: TrainingOverlap | None = None

    @property
    def layer(self) -> int:
        """The number of the hook's block; -1 where its name has none."""
        number = re.search(r"\d+", self.hook)
        return int(number.group()) if number else -1


@dataclass(frozen=True)
class ModelRecord:
    """The language model that the SAE was put into."""

    name: str
    revision: str | None
    weights_sha256: str
    dtype: str
    device: str


@dataclass(frozen=True)
class DatasetRecord:
    """A run's token sequences, and which of their tokens count.

    ``independent`` is the number of independent documents among the sequences or prompts: those
    that repeat each other, nearly or wholly, are one. None in older result files.
    """

    name: str
    split: str | None
    revision: str | None
    fingerprint: str
    sequences: int
    context: int
    packing: str
    documents_read: int
    documents_skipped: int
    policies: dict[str, str]
    independent: int | None = None
