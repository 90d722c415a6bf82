"""How many judged sequences occur in other texts, by their 13-grams."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from saebench.data.grams import GRAM, gram_hashes

MOST_TOKENS = 20_000_000  # of the training texts that are read; 255,000 a second
AT_ONCE = 1 << 18  # grams that are looked up at once
HALF = 0.5  # of a sequence's grams, above which it occurs in the texts


@dataclass(frozen=True)
class Occurrence:
    """Which sequences occur in some texts.

    Attributes:
        shares: for each sequence the share of its grams that occur.
        tokens: number of the texts' tokens that were read.
        complete: whether that was all of them.
    """

    shares: Float[np.ndarray, "sequences"]
    tokens: int
    complete: bool

    @property
    def found(self) -> int:
        """Number of sequences of which more than half of the grams occur."""
        return int(np.count_nonzero(self.shares > HALF))


def occurrence(
    sequences: Int[np.ndarray, "sequences tokens"],
    texts: Iterable[list[int]],
    *,
    gram: int = GRAM,
    limit: int = MOST_TOKENS,
    advance: Callable[[int], object] = int,
) -> Occurrence:
    """Return how much of each sequence occurs in texts, which are read once and not kept.

    Memory is that of the sequences' grams, whatever the texts' length.

    Args:
        sequences: token ids, without BOS.
        texts: the ids of each document, by the same tokenizer.
        gram: tokens of a gram; all of a sequence's where it has fewer.
        limit: tokens of the texts, beyond which no further document is read.
        advance: takes the number of tokens of each document that was read.

    Example:
        >>> story, other = list(range(40)), list(range(50, 90))
        >>> occurrence(np.array([story, other]), [[7, 7, *story, 7]]).shares
        array([1., 0.])
    """
    length = min(gram, sequences.shape[1])
    wanted, where = np.unique(gram_hashes(sequences, length=length), return_inverse=True)
    seen = np.zeros(len(wanted), dtype=bool)
    read, complete = 0, True
    for ids, hashes in _blocks(texts, length):
        read += ids
        advance(ids)
        _mark(seen, wanted, hashes)
        if read >= limit:
            complete = False
            break
    shares = seen[where.reshape(len(sequences), -1)].mean(axis=1)
    return Occurrence(shares, read, complete)


def _blocks(texts: Iterable[list[int]], length: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield documents' grams, many at once, each block with its number of tokens."""
    hashes, tokens, grams = [], 0, 0
    for ids in texts:
        hashes.append(gram_hashes(np.array(ids, dtype=np.int64), length=length))
        tokens, grams = tokens + len(ids), grams + hashes[-1].size
        if grams >= AT_ONCE:
            yield tokens, np.concatenate(hashes)
            hashes, tokens, grams = [], 0, 0
    if hashes:
        yield tokens, np.concatenate(hashes)


def _mark(seen: Bool[np.ndarray, "wanted"], wanted: np.ndarray, hashes: np.ndarray) -> None:
    """Mark which wanted hashes are among some."""
    at = np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)
    seen[at[wanted[at] == hashes]] = True
