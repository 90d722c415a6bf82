"""Packed rows of documents for training, and checks of their overlap with judged sequences."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from typing import Any

from saebench.data.documents import Documents
from saebench.data.order import Ways
from saebench.errors import DataError

KEY = 16  # tokens that are looked up before whole sequences are compared
NAMED = 3  # overlapping documents that an error names


@dataclass(frozen=True)
class RowSource:
    """Documents joined by BOS and cut into rows of equal length, each with BOS first.

    Attributes:
        documents: the texts.
        tokenizer: the model's.
        context: tokens in each row, BOS included.
        bos: the id of BOS; None for models without, or SAEs that were trained without.
        special_ids: ids that do not count as tokens of the text.
        first: index of the first row of each pass.
        end: index after the last row of each pass; None for all rows.
    """

    documents: Documents
    tokenizer: Any
    context: int
    bos: int | None
    special_ids: frozenset[int]
    first: int = 0
    end: int | None = None

    def between(self, first: int, end: int | None) -> "RowSource":
        """Return the source restricted to some rows of each pass."""
        return replace(self, first=first, end=end)

    def tokenised(self) -> Iterator[list[int]]:
        """Yield each document's ids, without BOS."""
        for text in self.documents:
            yield self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def once(self) -> Iterator[list[int]]:
        """Yield the rows of one pass over the documents; an incomplete last row is dropped."""
        return islice(self._cut(), self.first, self.end)

    def _cut(self) -> Iterator[list[int]]:
        prefix = [] if self.bos is None else [self.bos]
        size = self.context - len(prefix)
        buffer: list[int] = []
        for ids in self.tokenised():
            buffer += (prefix if buffer else []) + ids
            while len(buffer) >= size:
                yield prefix + buffer[:size]
                buffer = buffer[size:]

    def endless(self) -> Iterator[list[int]]:
        """Yield the rows of pass after pass, without end.

        Raises:
            DataError: where the documents do not fill one row.
        """
        while True:
            empty = True
            for row in self.once():
                empty = False
                yield row
            if empty:
                raise self._too_short(0, 1)

    def counted(self, row: Sequence[int]) -> int:
        """Return the number of a row's tokens that count: all but the first and special ones."""
        return sum(token not in self.special_ids for token in row[1:])

    def survey(self, tokens: int, *, passes: int, held: int = 0) -> "Supply":
        """Count the rows of one pass, as far as they are needed for a number of tokens.

        The first rows are held out: enough for ``held`` tokens, but at most a tenth of all.

        Args:
            tokens: number of tokens for training.
            passes: largest number of passes over the documents.
            held: number of tokens to hold out.

        Raises:
            DataError: where there are fewer tokens, with their number.
        """
        digest, counts, total, largest = hashlib.sha256(), [], 0, 0
        for row in self.once():
            digest.update(str(row).encode())
            counts.append(self.counted(row))
            total += counts[-1]
            largest = max(largest, *row)
            # The last held-out row may have more tokens than needed.
            if total >= tokens + held + (self.context if held else 0):
                break
        held_out = _rows_for(held, counts)
        left = sum(counts[held_out:])
        if left * passes < tokens:
            raise self._too_short(left, tokens, passes)
        passes_needed = max(1.0, tokens / left)
        return Supply(digest.hexdigest(), len(counts), held_out, left, passes_needed, largest)

    def _too_short(self, available: int, tokens: int, passes: int = 1) -> DataError:
        times = "" if passes == 1 else f", and {passes} passes over them {available * passes:,}"
        return DataError(
            f"{self.documents.name}: its texts give {available:,} tokens in rows of {self.context}"
            f"{times}, but {tokens:,} were asked for; give longer texts, fewer --tokens or more "
            "--max-passes"
        )


@dataclass(frozen=True)
class Supply:
    """The rows of a source that a training needs.

    Attributes:
        fingerprint: SHA-256 of the rows of a pass, as far as they are needed.
        rows: their number.
        held: the number of held-out rows among them, which are the first.
        tokens: counted tokens in the other rows.
        passes: number of passes over the other rows.
        largest: the largest token id in the rows.
    """

    fingerprint: str
    rows: int
    held: int
    tokens: int
    passes: float
    largest: int = 0


def _rows_for(tokens: int, counts: Sequence[int]) -> int:
    """Return the number of rows with so many tokens; at most a tenth of them, or one of few."""
    most = max(len(counts) // 10, int(len(counts) > 1)) if tokens else 0
    enough = (i for i, total in enumerate(accumulate(counts), start=1) if total >= tokens)
    return min(most, next(enough, most))


def refuse_overlap(
    source: RowSource, sequences: Iterable[Sequence[int]], *, judged: str, limit: int
) -> None:
    """Refuse training documents that contain a sequence of the judged ones.

    Args:
        source: the training documents.
        sequences: the judged ids, with BOS first where the source has one.
        judged: the name of the judged texts.
        limit: number of tokens of the source's documents, in their order, that may be used.

    Raises:
        DataError: naming the overlapping documents.
    """
    wanted: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = {}
    for number, sequence in enumerate(sequences):
        ids = tuple(sequence)[source.bos is not None :]
        wanted.setdefault(ids[:KEY], []).append((number, ids))
    shared: list[str] = []
    used = 0
    for index, ids in enumerate(source.tokenised()):
        contained = _contained(ids, wanted)
        if contained is not None:
            start = _start(source, ids)
            shared.append(f"document {index} (judged sequence {contained}: {start})")
        used += len(ids)
        if used >= limit:
            break
    if shared:
        rest = f" and {len(shared) - NAMED} more" if len(shared) > NAMED else ""
        raise DataError(
            f"{source.documents.name} and {judged} overlap, so that the result would be judged on "
            f"its training texts: {', '.join(shared[:NAMED])}{rest}; keep them apart"
        )


def _contained(
    ids: Sequence[int], wanted: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]]
) -> int | None:
    """Return the number of a wanted sequence that a document contains, else None."""
    for length in {len(key) for key in wanted}:
        for start in range(len(ids) - length + 1):
            for number, sequence in wanted.get(tuple(ids[start : start + length]), ()):
                if tuple(ids[start : start + len(sequence)]) == sequence:
                    return number
    return None


def _start(source: RowSource, ids: Sequence[int]) -> str:
    return repr(source.tokenizer.decode(list(ids[:12])).strip()[:40] + "…")


def split_documents(documents: Documents, *, every: int) -> tuple[Documents, Documents]:
    """Split documents into most of them and every ``every``-th one.

    Args:
        documents: all documents.
        every: the last one of each so many is split off.

    Example:
        >>> most, few = split_documents(Documents("d", None, None, lambda: iter("abcd")), every=2)
        >>> list(most), list(few)
        (['a', 'c'], ['b', 'd'])
    """

    def fitted() -> Iterator[str]:
        return (text for i, text in enumerate(documents) if i % every != every - 1)

    def held_out() -> Iterator[str]:
        return islice(iter(documents), every - 1, None, every)

    # The other ways to read them would give all documents to both.
    name, apart = documents.name, replace(documents, ways=Ways(), order=None, numbered=None)
    return (
        replace(apart, name=f"{name}, but every {every}th document", read=fitted),
        replace(apart, name=f"{name}, every {every}th document", read=held_out),
    )
