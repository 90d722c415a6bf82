"""The data of benches: sequences, longer sequences and cloze prompts, each read once."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from saebench.data.cloze_tokens import ClozeTokens, tokenise
from saebench.data.documents import Documents
from saebench.data.prompts import NAMED, Prompts
from saebench.data.tokens import TokenSet, take_sequences
from saebench.errors import DataError, HostError, NotApplicable
from saebench.options import Packing, Settings
from saebench.records.document_order import ORDER
from saebench.records.inputs import DatasetRecord
from saebench.subjects.host import Host
from saebench.subjects.sae import Subject

PROMPTS = "prompts"
FARTHEST = 8  # longest evaluated context, in training contexts
FEWEST = 32  # sequences that a length needs, unless the run has fewer, for the claim to reach it


@dataclass(frozen=True)
class Texts:
    """The documents and prompts that a bench's SAEs are measured on.

    Attributes:
        documents: running text.
        prompts: cloze prompts, or None.
    """

    documents: Documents
    prompts: Prompts | None = None


class Readings:
    """Reads and caches a bench's longer sequences and cloze prompts.

    Args:
        host: the model, for its tokenizer and its context.
        texts: the documents and prompts.
        settings: the run's settings.
        bos: the token that sequences and prompts begin with, or None.
        tokens: the run's sequences.
    """

    def __init__(
        self, host: Host, texts: Texts, settings: Settings, *, bos: int | None, tokens: TokenSet
    ) -> None:
        self._host = host
        self._tokens = tokens
        self._texts = texts
        self._settings = settings
        self._bos = bos
        self._read: dict[Any, Any] = {}

    def long(self, subject: Subject) -> TokenSet:
        """Return the sequences longer than an SAE's training context, read once.

        Raises:
            NotApplicable: if the model's context or the documents are not longer.
        """
        context = self._long_context(subject)
        key = ("long", context)
        if key not in self._read:
            try:
                self._read[key] = self._taken(context)
            except DataError as error:
                reason = str(error).partition("; give")[0]
                self._read[key] = NotApplicable(
                    f"context_length: {reason}; give longer texts (--sae-dataset)"
                )
        tokens = self._read[key]
        if isinstance(tokens, NotApplicable):
            raise tokens
        return tokens

    def claim(self, subject: Subject) -> int:
        """Return how many tokens an SAE claims to work on, at most the model's context.

        One that states no context claims the model's: what is left out makes nothing easier.
        """
        own = self._tokens.ids.shape[1]
        stated = subject.metadata.training_context or self._host.context or own
        return min(stated, self._host.context or stated)

    def trained_on(self, subject: Subject) -> int:
        """Return the context beyond which an SAE is measured: its own, else the run's."""
        return subject.metadata.training_context or self._tokens.ids.shape[1]

    def claimed(self, subject: Subject) -> TokenSet:
        """Return sequences as long as an SAE claims to work on, read once.

        Where few documents are so long, half the length is tried, and half of that, down to the
        run's own sequences.
        """
        claim = self.claim(subject)
        key = ("claimed", claim)
        if key not in self._read:
            found = (self._enough(length) for length in self._lengths(claim))
            self._read[key] = next((each for each in found if each is not None), self._tokens)
        return self._read[key]

    def _lengths(self, claim: int) -> Iterator[int]:
        """Yield the lengths to try: the claim, then halves of it beyond the run's own length."""
        own = self._tokens.ids.shape[1]
        length = claim
        while length > own or length == claim != own:
            yield length
            length = max(own, length // 2)

    def _enough(self, length: int) -> TokenSet | None:
        """Return sequences of a length; None where too few documents are so long."""
        try:
            tokens = self._taken(length)
        except DataError:
            return None
        return tokens if len(tokens.ids) >= min(FEWEST, len(self._tokens.ids)) else None

    def _taken(self, context: int) -> TokenSet:
        documents = self._texts.documents
        return take(self._settings, self._host, documents, context=context, bos=self._bos)

    def prompts(self) -> ClozeTokens:
        """Return the tokenised cloze prompts, read once.

        Raises:
            NotApplicable: if there are none.
        """
        if self._texts.prompts is None:
            raise NotApplicable(
                "cloze: no prompts; --sae-cloze FILE.jsonl gives them, or one of "
                f"{', '.join(NAMED)} from the Hugging Face cache"
            )
        if PROMPTS not in self._read:
            tokenised = tokenise(
                self._texts.prompts,
                self._host.tokenizer,
                context=self._host.context or 10**6,
                prepend_bos=self._bos is not None,
                bos=self._bos,
                special_ids=special_ids(self._host, self._bos),
                places=self._texts.prompts.places,
            )
            check_vocabulary(self._host, tokenised.largest, of="the cloze prompts")
            self._read[PROMPTS] = tokenised
        return self._read[PROMPTS]

    def record(self, tokens: TokenSet) -> DatasetRecord:
        """Return the result file's record of some sequences."""
        score_bos, special = self._settings.score_bos, self._host.special_ids
        return tokens.record(self._texts.documents, score_bos=score_bos, special_ids=special)

    def record_of_prompts(self) -> DatasetRecord:
        """Return the result file's record of the prompts.

        Raises:
            NotApplicable: if there are none.
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
            policies={"substituted": "the prompt but position 0 and special tokens"}
            | ({} if source.order is None else {ORDER: source.order}),
            independent=prompts.independent,
        )

    def _long_context(self, subject: Subject) -> int:
        trained = self.trained_on(subject)
        if self._settings.packing is Packing.PACKED:
            raise NotApplicable(
                "context_length: packing puts short documents at high positions; "
                "it needs --sae-packing documents"
            )
        context = min(FARTHEST * trained, self._host.context or FARTHEST * trained)
        if context <= trained + 1:
            stated = subject.metadata.training_context is not None
            who = "the SAE was trained on" if stated else "the SAE states no context, the run has"
            raise NotApplicable(
                f"context_length: {who} {trained} tokens and {self._host.name} takes "
                f"{self._host.context}: there is nothing beyond to measure; reach=claimed judges "
                "all positions up to there"
            )
        return context


def take(
    settings: Settings, host: Host, documents: Documents, *, context: int, bos: int | None
) -> TokenSet:
    """Return sequences of a given length for the run, of documents in the run's order.

    Args:
        settings: the run's settings.
        host: the model.
        documents: the text.
        context: tokens in each sequence.
        bos: the token that each begins with, or None.

    Raises:
        DataError: if no document is long enough.
        HostError: if the tokenizer gives an id that the model does not have.
    """
    tokens = take_sequences(
        documents.in_order(settings.order, seed=settings.seed),
        host.tokenizer,
        sequences=settings.sequence_count,
        context=context,
        prepend_bos=bos is not None,
        bos=bos,
        special_ids=special_ids(host, bos),
        packing=settings.packing,
        score_bos=settings.score_bos,
    )
    check_vocabulary(host, int(tokens.ids.max()), of=documents.name)
    return tokens


def special_ids(host: Host, bos: int | None) -> frozenset[int]:
    """Return the ids that are neither substituted nor scored: special tokens and BOS."""
    return host.special_ids | ({bos} if bos is not None else frozenset())


def check_vocabulary(host: Host, largest: int, *, of: str) -> None:
    """Check that the model has an embedding for every token.

    Args:
        host: the model.
        largest: the largest token id.
        of: the text that it comes from, for the error message.

    Raises:
        HostError: if it has not, naming both numbers.
    """
    if largest >= host.embeddings:
        raise HostError(
            f"{host.name}: the tokenizer gives id {largest} in {of}, the model has "
            f"{host.embeddings} embeddings; are they from the same model? (--sae-model DIR holds "
            "both; from Python tokenizer=…)"
        )


def edges_from_both_ends(context: int) -> tuple[int, ...]:
    """Return the edges of bins that double from both ends of a context to its middle.

    Example:
        >>> edges_from_both_ends(16)
        (0, 1, 2, 4, 8, 12, 14, 15, 16)
    """
    doubling = [2**i for i in range(context.bit_length()) if 2**i < context / 2]
    half = [context // 2] if context > 1 else []
    ends = {0, *doubling, *half, *(context - each for each in doubling), context}
    return tuple(sorted(ends))


def bin_edges(training_context: int, context: int) -> tuple[int, ...]:
    """Return the bin edges 0, C, 2C, 4C, 8C, the last one being the evaluated context.

    Example:
        >>> bin_edges(64, 256)
        (0, 64, 128, 256)
    """
    doubling = [training_context * 2**i for i in range(FARTHEST.bit_length())]
    # In a last bin of one position there would be no next token to predict.
    return (0, *(edge for edge in doubling if edge < context - 1), context)
