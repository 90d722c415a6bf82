"""What benches are measured on: sequences, longer ones and prompts, each read once."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from saebench.data.cloze_tokens import ClozeTokens, tokenise
from saebench.data.documents import Documents
from saebench.data.prompts import NAMED, Prompts
from saebench.data.tokens import TokenSet, take_sequences
from saebench.errors import DataError, HostError, NotApplicable
from saebench.options import Packing, Settings
from saebench.records.run import DatasetRecord
from saebench.subjects.host import Host
from saebench.subjects.sae import Subject

PROMPTS = "prompts"
FARTHEST = 8  # times the training context


@dataclass(frozen=True)
class Texts:
    """What a bench's SAEs are measured on.

    Attributes:
        documents: running texts.
        prompts: cloze prompts, or None where there are none.
    """

    documents: Documents
    prompts: Prompts | None = None


class Readings:
    """Reads what a bench is measured on beyond its sequences.

    Args:
        host: the model, for its tokenizer and its context.
        texts: where they come from.
        settings: the run's.
        bos: the token that sequences and prompts begin with; None for none.
    """

    def __init__(self, host: Host, texts: Texts, settings: Settings, *, bos: int | None) -> None:
        self._host = host
        self._texts = texts
        self._settings = settings
        self._bos = bos
        self._read: dict[Any, Any] = {}

    def long(self, subject: Subject) -> TokenSet:
        """Return the sequences beyond an SAE's training context, read once.

        Raises:
            NotApplicable: where there is nothing beyond it, or no text is so long.
        """
        context = self._long_context(subject)
        key = ("long", context)
        if key not in self._read:
            try:
                self._read[key] = take(
                    self._settings,
                    self._host,
                    self._texts.documents,
                    context=context,
                    bos=self._bos,
                )
            except DataError as error:
                reason = str(error).partition("; give")[0]
                self._read[key] = NotApplicable(
                    f"context_length: {reason}; give longer texts (--sae-dataset)"
                )
        found = self._read[key]
        if isinstance(found, NotApplicable):
            raise found
        return found

    def long_sets(self, subjects: Iterable[Subject]) -> Iterator[TokenSet]:
        """Give those of each SAE that has any."""
        for subject in subjects:
            with suppress(NotApplicable):
                yield self.long(subject)

    def prompts(self) -> ClozeTokens:
        """Return the cloze prompts.

        Raises:
            NotApplicable: where there are none.
        """
        if self._texts.prompts is None:
            raise NotApplicable(
                "cloze: no prompts; --sae-cloze FILE.jsonl gives them, or one of "
                f"{', '.join(NAMED)} from the Hugging Face cache"
            )
        if PROMPTS not in self._read:
            found = tokenise(
                self._texts.prompts,
                self._host.tokenizer,
                context=self._host.context or 10**6,
                prepend_bos=self._bos is not None,
                bos=self._bos,
                special_ids=special_ids(self._host, self._bos),
            )
            check_vocabulary(self._host, found.largest, of="the cloze prompts")
            self._read[PROMPTS] = found
        return self._read[PROMPTS]

    def record(self, tokens: TokenSet) -> DatasetRecord:
        """Return what the result file says of sequences."""
        score_bos, special = self._settings.score_bos, self._host.special_ids
        return tokens.record(self._texts.documents, score_bos=score_bos, special_ids=special)

    def record_of_prompts(self) -> DatasetRecord:
        """Return what the result file says of the prompts.

        Raises:
            NotApplicable: where there are none.
        """
        prompts, source = self.prompts(), self._texts.prompts
        assert source is not None
        return DatasetRecord(
            name=source.name,
            split=source.split,
            revision=source.revision,
            fingerprint=prompts.fingerprint,
            sequences=len(prompts.ids),
            context=prompts.ids.shape[1],
            packing="prompts",
            documents_read=len(prompts.ids),
            documents_skipped=0,
            policies={"substituted": "the prompt but position 0 and special tokens"},
        )

    def _long_context(self, subject: Subject) -> int:
        trained = subject.metadata.training_context
        if self._settings.packing is Packing.PACKED:
            raise NotApplicable(
                "context_length: packing puts short documents at high positions; "
                "it needs --sae-packing documents"
            )
        if trained is None:
            raise NotApplicable(
                "context_length: the metadata has no context_size; "
                "--sae-training-context N gives it"
            )
        context = min(FARTHEST * trained, self._host.context or FARTHEST * trained)
        if context <= trained + 1:
            raise NotApplicable(
                f"context_length: the SAE was trained on {trained} tokens and {self._host.name} "
                f"takes {self._host.context}: there is nothing beyond to measure"
            )
        return context


def take(
    settings: Settings, host: Host, documents: Documents, *, context: int, bos: int | None
) -> TokenSet:
    """Return the run's sequences of a length.

    Args:
        settings: the run's.
        host: the model.
        documents: the texts.
        context: tokens in each sequence.
        bos: the token that each begins with; None for none.

    Raises:
        DataError: where no document is long enough.
        HostError: where the tokenizer gives an id that the model does not have.
    """
    found = take_sequences(
        documents,
        host.tokenizer,
        sequences=settings.sequence_count,
        context=context,
        prepend_bos=bos is not None,
        bos=bos,
        special_ids=special_ids(host, bos),
        packing=settings.packing,
        score_bos=settings.score_bos,
    )
    check_vocabulary(host, int(found.ids.max()), of=documents.name)
    return found


def special_ids(host: Host, bos: int | None) -> frozenset[int]:
    """Return the ids that are neither substituted nor scored: the tokenizer's, and the first."""
    return host.special_ids | ({bos} if bos is not None else frozenset())


def check_vocabulary(host: Host, largest: int, *, of: str) -> None:
    """Refuse tokens that the model has no embedding for.

    Args:
        host: the model.
        largest: the largest id.
        of: the texts that it comes from, for messages.

    Raises:
        HostError: naming both numbers.
    """
    if largest >= host.embeddings:
        raise HostError(
            f"{host.name}: the tokenizer gives id {largest} in {of}, the model has "
            f"{host.embeddings} embeddings; are they from the same model? (--sae-model DIR holds "
            "both; from Python tokenizer=…)"
        )


def bin_edges(training_context: int, context: int) -> tuple[int, ...]:
    """Return the edges 0, C, 2C, 4C, 8C, cut at the evaluated context.

    Example:
        >>> bin_edges(64, 256)
        (0, 64, 128, 256)
    """
    doubling = [training_context * 2**i for i in range(FARTHEST.bit_length())]
    # A last bin of one position would have nothing to predict.
    return (0, *(edge for edge in doubling if edge < context - 1), context)
