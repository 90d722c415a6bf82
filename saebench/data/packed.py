"""Documents as an endless supply of equal rows, and which documents two sets share."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from typing import Any

from saebench.data.documents import Documents
from saebench.errors import DataError

KEY = 16  # tokens that are looked up before whole sequences are compared
SHOWN = 3  # overlapping documents that an error names


@dataclass(frozen=True)
class RowSource:
    """Documents that are joined by BOS and cut into rows, each with BOS first.

    Attributes:
        documents: where the texts come from.
        tokenizer: the model's.
        context: tokens in each row, BOS included.
        bos: its id; None for models without, or SAEs that were trained without.
        special_ids: ids that do not count as tokens of the text.
        first: the row of a pass that is the first to be given.
        end: the row before which a pass ends; None for where the documents end.
    """

    documents: Documents
    tokenizer: Any
    context: int
    bos: int | None
    special_ids: frozenset[int]
    first: int = 0
    end: int | None = None

    def between(self, first: int, end: int | None) -> "RowSource":
        """Return the same with some rows of each pass alone."""
        return replace(self, first=first, end=end)

    def tokenised(self) -> Iterator[list[int]]:
        """Give each document's ids, without BOS."""
        for text in self.documents:
            yield self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def once(self) -> Iterator[list[int]]:
        """Give the rows of one pass over the documents; what is left at the end is not used."""
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
        """Give the rows of pass after pass.

        Raises:
            DataError: where not one row is to be had.
        """
        while True:
            empty = True
            for row in self.once():
                empty = False
                yield row
            if empty:
                raise self._too_short(0, 1)

    def counted(self, row: Sequence[int]) -> int:
        """Return how many of a row's tokens count: all but the first and special ones."""
        return sum(token not in self.special_ids for token in row[1:])

    def survey(self, tokens: int, *, passes: int, held: int = 0) -> "Supply":
        """Count what one pass holds, as far as it is needed for so many tokens.

        The first rows are held apart: enough for so many tokens, but a tenth of all at most.

        Args:
            tokens: how many are asked for.
            passes: over the documents, at most.
            held: tokens that are to be held apart from them.

        Raises:
            DataError: saying how many tokens there are, where they are fewer.
        """
        digest, counts, found, largest = hashlib.sha256(), [], 0, 0
        for row in self.once():
            digest.update(str(row).encode())
            counts.append(self.counted(row))
            found += counts[-1]
            largest = max(largest, *row)
            # The last row that is held apart may hold more than was asked for.
            if found >= tokens + held + (self.context if held else 0):
                break
        apart = _rows_for(held, counts)
        left = sum(counts[apart:])
        if left * passes < tokens:
            raise self._too_short(left, tokens, passes)
        passes_needed = max(1.0, tokens / left)
        return Supply(digest.hexdigest(), len(counts), apart, left, passes_needed, largest)

    def _too_short(self, found: int, tokens: int, passes: int = 1) -> DataError:
        times = "" if passes == 1 else f", and {passes} passes over them {found * passes:,}"
        return DataError(
            f"{self.documents.name}: its texts give {found:,} tokens in rows of {self.context}"
            f"{times}, but {tokens:,} were asked for; give longer texts, fewer --tokens or more "
            "--max-passes"
        )


@dataclass(frozen=True)
class Supply:
    """What a source holds.

    Attributes:
        fingerprint: SHA-256 of the rows of a pass, as far as they are needed.
        rows: how many these are.
        held: how many of them, from the first on, are held apart.
        tokens: counted tokens in the others.
        passes: how often the others are gone through for the tokens that were asked for.
        largest: the largest token id in the rows.
    """

    fingerprint: str
    rows: int
    held: int
    tokens: int
    passes: float
    largest: int = 0


def _rows_for(tokens: int, counts: Sequence[int]) -> int:
    """Return how many rows hold so many tokens; a tenth of them, or one of few, at most."""
    most = max(len(counts) // 10, int(len(counts) > 1)) if tokens else 0
    enough = (i for i, total in enumerate(accumulate(counts), start=1) if total >= tokens)
    return min(most, next(enough, most))


def refuse_overlap(
    source: RowSource, sequences: Iterable[Sequence[int]], *, judged: str, limit: int
) -> None:
    """Refuse documents that hold a sequence which is to be judged on, wherever in them.

    Args:
        source: what is fitted on.
        sequences: the judged ids, with BOS first where the source has one.
        judged: what the judged texts are called.
        limit: tokens of the source's documents, in their order, that may be used.

    Raises:
        DataError: naming the documents that overlap.
    """
    wanted: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = {}
    for number, sequence in enumerate(sequences):
        ids = tuple(sequence)[source.bos is not None :]
        wanted.setdefault(ids[:KEY], []).append((number, ids))
    shared: list[str] = []
    used = 0
    for index, ids in enumerate(source.tokenised()):
        held = _held(ids, wanted)
        if held is not None:
            shared.append(f"document {index} (judged sequence {held}: {_start(source, ids)})")
        used += len(ids)
        if used >= limit:
            break
    if shared:
        rest = f" and {len(shared) - SHOWN} more" if len(shared) > SHOWN else ""
        raise DataError(
            f"{source.documents.name} and {judged} overlap, so that the result would be judged on "
            f"what it was fitted on: {', '.join(shared[:SHOWN])}{rest}; keep them apart"
        )


def _held(
    ids: Sequence[int], wanted: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]]
) -> int | None:
    """Return the number of a wanted sequence that is in a document, else None."""
    for length in {len(key) for key in wanted}:
        for start in range(len(ids) - length + 1):
            for number, sequence in wanted.get(tuple(ids[start : start + length]), ()):
                if tuple(ids[start : start + len(sequence)]) == sequence:
                    return number
    return None


def _start(source: RowSource, ids: Sequence[int]) -> str:
    return repr(source.tokenizer.decode(list(ids[:12])).strip()[:40] + "…")


def split_documents(documents: Documents, *, every: int) -> tuple[Documents, Documents]:
    """Return documents with every so-many-th left out, and those that were left out.

    Args:
        documents: all of them.
        every: the last of each so many is kept apart.

    Example:
        >>> most, few = split_documents(Documents("d", None, None, lambda: iter("abcd")), every=2)
        >>> list(most), list(few)
        (['a', 'c'], ['b', 'd'])
    """

    def fitted() -> Iterator[str]:
        return (text for i, text in enumerate(documents) if i % every != every - 1)

    def kept() -> Iterator[str]:
        return islice(iter(documents), every - 1, None, every)

    name = documents.name
    return (
        replace(documents, name=f"{name}, but every {every}th document", read=fitted),
        replace(documents, name=f"{name}, every {every}th document", read=kept),
    )
