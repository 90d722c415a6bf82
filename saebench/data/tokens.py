"""Token sequences of equal length: documents tokenised, packed, and masked for scoring."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saebench.data.documents import Documents
from saebench.data.grams import GRAM, gram_length
from saebench.data.near_copies import clusters_of
from saebench.errors import DataError
from saebench.options import Packing
from saebench.records.document_order import ORDER
from saebench.records.inputs import ALL_COUNT, FIRST, SPECIAL, DatasetRecord

MOST_READ = 100  # documents for each requested sequence, before giving up


@dataclass(frozen=True)
class WithoutText:
    """The number of documents without a text."""

    null: int = 0
    empty: int = 0

    def __str__(self) -> str:
        """Return the numbers in words; empty for none."""
        kinds = (("null", self.null), ("empty", self.empty))
        return ", ".join(f"{n} {kind} text{'s' if n > 1 else ''}" for kind, n in kinds if n)


@dataclass(frozen=True)
class TokenSet:
    """Token sequences of equal length, with the counts of their documents.

    Attributes:
        ids: token ids, BOS first where the SAE was trained so.
        counted: the tokens that are substituted, scored and enter statistics: all but position 0
            and special tokens.
        first: the index, in the run, of the first sequence.
        is_part: whether the run has other sequences.
        clusters: for each sequence the index of the first one of its document in the run: equal
            ones, near-copies and those cut from one text are of one; None where all differ.
        without_text: documents that were read and had no text.
        places: the place in the source of each sequence's first document.
        order: the order in which the documents were taken, in words.
        gram: tokens of the grams by which near-copies are found.
    """

    ids: Int[Tensor, "sequences context"]
    counted: Bool[Tensor, "sequences context"]
    packing: Packing
    documents_read: int
    documents_skipped: int
    first: int = 0
    is_part: bool = False
    clusters: Int[np.ndarray, "sequences"] | None = None
    without_text: WithoutText = field(default_factory=WithoutText)
    places: Int[np.ndarray, "sequences"] | None = None
    order: str | None = None
    gram: int = GRAM

    def part(self, rows: slice) -> "TokenSet":
        """Return some of the run's sequences, with their indices in the run."""
        return replace(
            self,
            ids=self.ids[rows],
            counted=self.counted[rows],
            first=self.first + rows.start,
            is_part=True,
            clusters=None if self.clusters is None else self.clusters[rows],
            places=None if self.places is None else self.places[rows],
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the ids and of which of them count."""
        digest = hashlib.sha256(str(tuple(self.ids.shape)).encode())
        digest.update(self.ids.to(torch.int64).numpy().tobytes())
        digest.update(self.counted.numpy().tobytes())
        return digest.hexdigest()

    @property
    def independent(self) -> int:
        """Number of independent documents: of clusters, or of sequences where all differ."""
        return len(self.ids) if self.clusters is None else len(np.unique(self.clusters))

    @property
    def has_target(self) -> Bool[Tensor, "sequences context"]:
        """The tokens at which cross-entropy is scored: counted tokens with a next token."""
        mask = self.counted.clone()
        mask[:, -1] = False
        return mask

    def record(
        self, documents: Documents, *, score_bos: bool, special_ids: Iterable[int] = ()
    ) -> DatasetRecord:
        """Return the data's entry of the result file.

        Args:
            documents: the texts.
            score_bos: whether position 0 and special tokens count too.
            special_ids: the special tokens.
        """
        rule = ALL_COUNT if score_bos else "all but position 0 and special tokens"
        first = {int(id) in set(special_ids) for id in self.ids[:, 0].unique()}
        begins = SPECIAL if first == {True} else "a token of the text"
        policies = {"substituted": rule, "scored": rule, "statistics": rule, FIRST: begins}
        policies |= {} if self.order is None else {ORDER: self.order}
        return DatasetRecord(
            name=documents.name,
            split=documents.split,
            revision=documents.revision,
            fingerprint=self.fingerprint,
            sequences=len(self.ids),
            context=self.ids.shape[1],
            packing=self.packing.value,
            documents_read=self.documents_read,
            documents_skipped=self.documents_skipped,
            policies=policies,
            independent=self.independent,
        )


def take_sequences(
    documents: Documents,
    tokenizer: Any,
    *,
    sequences: int,
    context: int,
    prepend_bos: bool,
    special_ids: frozenset[int],
    packing: Packing = Packing.DOCUMENTS,
    score_bos: bool = False,
    bos: int | None = None,
) -> TokenSet:
    """Return the documents' first sequences, in the documents' order.

    Args:
        documents: the texts.
        tokenizer: the model's.
        sequences: number of sequences; fewer are returned where the documents run out.
        context: tokens in each, BOS included.
        prepend_bos: BOS first, where the tokenizer has one.
        special_ids: ids that are neither substituted nor scored.
        packing: one document a sequence, or documents joined by BOS and cut.
        score_bos: count position 0 and special tokens too.
        bos: the first token; by default the tokenizer's BOS.

    Raises:
        DataError: where no document, or no packed text, is long enough.

    Source:
        docs/metrics.md (data).
    """
    first = (tokenizer.bos_token_id if bos is None else bos) if prepend_bos else None
    reader = _Reader(documents, tokenizer, bos=first, limit=sequences * MOST_READ)
    is_packed = packing is Packing.PACKED
    given = reader.packed(context) if is_packed else reader.separate(context)
    taken = list(islice(given, sequences))
    if not taken:
        raise reader.too_short(context)
    places, rows = zip(*taken, strict=True)
    ids = torch.tensor(rows, dtype=torch.int64)
    counted = torch.ones_like(ids, dtype=torch.bool)
    if not score_bos:
        counted[:, 0] = False
        for special in special_ids:
            counted &= ids != special
    if not counted.any():
        raise DataError(
            f"--sae-dataset {documents.name}: all tokens of its {len(rows)} sequences are special; "
            "give running text, or --sae-score-bos"
        )
    skipped = reader.read - len(rows) if packing is Packing.DOCUMENTS else 0
    gram = gram_length(reader.characters, reader.tokens)
    owners = np.array(reader.owners[: len(rows)]) if is_packed else None
    return TokenSet(
        ids, counted, packing, reader.read, skipped,
        clusters=clusters_of(ids.numpy(), documents=owners, gram=gram),
        without_text=WithoutText(reader.null, reader.empty), gram=gram,
        places=np.array(places), order=documents.order,
    )  # fmt: skip


def token_text(tokenizer: Any, token: int) -> str:
    """Return a token's text, with its leading space.

    A piece of a character, which is no text, is represented by its name in the vocabulary.

    Args:
        tokenizer: the model's.
        token: the id.
    """
    # Tokenizers drop the space before a text's first token: take the second of two.
    once, twice = (
        tokenizer.decode([token] * times, clean_up_tokenization_spaces=False) for times in (1, 2)
    )
    text = twice[len(once) :]
    if text and "\ufffd" not in text:
        return text
    return str(tokenizer.convert_ids_to_tokens(token))


class _Reader:
    """Tokenises documents one by one, and counts them, their characters and tokens.

    Attributes:
        owners: for each packed sequence the document that gives most of its tokens.
    """

    def __init__(
        self, documents: Documents, tokenizer: Any, *, bos: int | None, limit: int
    ) -> None:
        self.read = 0
        self.longest = 0
        self.null = 0
        self.empty = 0
        self.characters = 0
        self.tokens = 0
        self.owners: list[int] = []
        self._documents = documents
        self._tokenizer = tokenizer
        self._prefix = [] if bos is None else [bos]
        self._limit = limit

    def separate(self, context: int) -> Iterator[tuple[int, list[int]]]:
        """Yield the place and first ``context`` tokens of each document that is long enough."""
        for place, ids in self._tokenised():
            if len(ids) >= context:
                yield place, ids[:context]

    def packed(self, context: int) -> Iterator[tuple[int, list[int]]]:
        """Yield consecutive pieces of all documents, joined by BOS, and where each begins."""
        buffer: list[int] = []
        owners: list[int] = []
        begin = 0
        for place, ids in self._tokenised():
            begin = begin if buffer else place
            buffer += ids
            owners += [self.read] * len(ids)
            while len(buffer) >= context:
                self.owners.append(Counter(owners[:context]).most_common(1)[0][0])
                yield begin, buffer[:context]
                buffer, owners, begin = buffer[context:], owners[context:], place

    def too_short(self, context: int) -> DataError:
        """Return the error for documents that are all too short."""
        without = WithoutText(self.null, self.empty)
        nothing = f" (found: {without})" if str(without) else ""
        all_read = f", as many as are tried ({MOST_READ} for each sequence)"
        most = all_read if self.read == self._limit else ""
        return DataError(
            f"--sae-dataset {self._documents.name}: no document has {context} tokens; "
            f"{self.read} were read{most}{nothing}, the longest has {self.longest}; "
            "give longer texts or a smaller --sae-context"
        )

    def _tokenised(self) -> Iterator[tuple[int, list[int]]]:
        for place, text in islice(self._documents.with_places(), self._limit):
            self.read += 1
            if text is None:
                self.null += 1
                continue
            self.empty += not text.strip()
            # verbose=False: a document longer than the model's context is expected here.
            ids = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            self.characters += len(text)
            self.tokens += len(ids)
            self.longest = max(self.longest, len(ids) + len(self._prefix))
            yield place, self._prefix + ids
