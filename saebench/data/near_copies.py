"""Near-copies: which sequences are of one document, and so are one observation.

Equal sequences, sequences that share a large part of their 13-grams (a copy with another first
word, overlapping windows of one text), and those that packing cut from one document belong
together, and so does whatever a chain of such sequences connects.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components

from saebench.data.grams import GRAM, gram_hashes

SHARE = 0.25  # of the smaller one's grams, above which two sequences are near-copies
AT_LEAST = 20  # shared grams, 32 tokens in a row: two texts that open alike share fewer
OF_SHORT = 2 / 3  # the share that suffices where a sequence has few grams
NEIGHBOURS = 7  # holders of a gram after each one that are compared with it
AT_ONCE = 2048  # pairs whose grams are intersected at once

Pairs = Int[np.ndarray, "pairs two"]


def clusters_of(
    ids: Int[np.ndarray, "sequences tokens"],
    *,
    lengths: Int[np.ndarray, "sequences"] | None = None,
    documents: Int[np.ndarray, "sequences"] | None = None,
    gram: int = GRAM,
) -> Int[np.ndarray, "sequences"] | None:
    """Return for each sequence the index of the first one of its document; None where all differ.

    Two sequences are near-copies if they share at least a quarter of the smaller one's different
    grams and at least 20, or two thirds of them where those are fewer. Sequences that are
    shorter than a gram belong together only if they are equal. Clusters are those of all
    sequences given: one may connect two earlier ones.

    Every near-copy is found but for pairs of which each shared gram is in more than eight
    sequences and the two are never among each other's next seven there. The work therefore grows
    with the number of tokens, however many sequences share a phrase.

    Args:
        ids: token ids.
        lengths: tokens of each sequence, where padding follows; all by default.
        documents: the document that each was cut from, where several may be of one.
        gram: tokens of a gram.

    Source:
        docs/statistics.md, "The same text several times"; Lee et al. 2022, "Deduplicating training
        data makes language models better".

    Example:
        >>> story, other = np.arange(40), np.arange(100, 140)
        >>> clusters_of(np.array([story, other, [7, *story[1:]]]))
        array([0, 1, 0])
    """
    count = len(ids)
    lengths = np.full(count, ids.shape[1]) if lengths is None else lengths
    links = [_equal(np.column_stack([ids, lengths])), _near(ids, lengths, gram)]
    if documents is not None:
        links.append(_equal(documents[:, None]))
    joined = np.concatenate(links)
    graph = coo_matrix((np.ones(len(joined)), (joined[:, 0], joined[:, 1])), shape=(count, count))
    _, cluster = connected_components(graph, directed=False)
    _, first = np.unique(cluster, return_index=True)
    return None if len(first) == count else first[cluster]


def _equal(rows: Int[np.ndarray, "sequences columns"]) -> Pairs:
    """Return pairs of each row and the first one that is equal to it."""
    _, first, kind = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    pairs = np.column_stack([first[kind.reshape(-1)], np.arange(len(rows))])
    return pairs[pairs[:, 0] != pairs[:, 1]]


def _near(ids: np.ndarray, lengths: np.ndarray, gram: int) -> Pairs:
    """Return the pairs of sequences that share enough grams."""
    hashes = gram_hashes(ids, length=gram)
    if not hashes.size:
        return np.empty((0, 2), dtype=np.int64)
    exists = np.arange(hashes.shape[1]) < (lengths - gram + 1)[:, None]
    row, numbers, sizes = _shared(hashes, exists)
    needed = np.maximum(np.ceil(SHARE * sizes), np.minimum(AT_LEAST, np.ceil(OF_SHORT * sizes)))
    shape = (len(ids), int(numbers.max(initial=0)) + 1)
    holds = csr_matrix((np.ones(len(row), dtype=np.int32), (row, numbers)), shape=shape)
    candidates = _candidates(row, numbers, needed)
    found = [
        some[_common(holds, some) >= needed[some].min(axis=1)]
        for some in np.array_split(candidates, range(AT_ONCE, len(candidates), AT_ONCE))
    ]
    return np.concatenate(found)


def _shared(
    hashes: np.ndarray, exists: Bool[np.ndarray, "sequences grams"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return sequence and number of each gram that several hold, and every sequence's grams.

    Each sequence counts once for a gram. The entries are in the order of the grams' numbers, and
    of the sequences for each gram.
    """
    row = np.repeat(np.arange(len(hashes), dtype=np.int32), exists.sum(axis=1))
    flat = hashes[exists]
    order = np.argsort(flat, kind="stable")
    flat, row = flat[order], row[order]
    again = np.zeros(len(flat), dtype=bool)
    again[1:] = (flat[1:] == flat[:-1]) & (row[1:] == row[:-1])
    flat, row = flat[~again], row[~again]
    sizes = np.bincount(row, minlength=len(hashes))
    same = flat[1:] == flat[:-1]
    several = np.append(same, False) | np.append(False, same)
    numbers = np.cumsum(np.append(False, ~same))[several] if len(flat) else np.empty(0, np.int64)
    return row[several], _renumbered(numbers), sizes


def _renumbered(numbers: np.ndarray) -> np.ndarray:
    """Return sorted numbers without gaps."""
    steps = np.diff(numbers, prepend=numbers[:1])
    return np.cumsum(steps > 0)


def _candidates(row: np.ndarray, numbers: np.ndarray, needed: np.ndarray) -> Pairs:
    """Return the pairs of neighbours among grams' holders that may share as many as they need.

    They share as many as they are neighbours in, and at most those with more holders besides.
    """
    count = len(needed)
    codes, times = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    for one, two in _neighbours(row, numbers):
        new, new_times = np.unique(one * count + two, return_counts=True)
        codes, where = np.unique(np.concatenate([codes, new]), return_inverse=True)
        times = np.bincount(where, np.concatenate([times, new_times]), len(codes))
    pairs = np.column_stack(np.divmod(codes, count))
    many = np.bincount(numbers)[numbers] > NEIGHBOURS + 1
    besides = np.bincount(row[many], minlength=count)
    return pairs[times + besides[pairs].min(axis=1) >= needed[pairs].min(axis=1)]


def _neighbours(row: np.ndarray, numbers: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pairs of holders of one gram: each with the next few, and with the first."""
    wide = row.astype(np.int64)
    for step in range(1, NEIGHBOURS + 1):
        same = numbers[step:] == numbers[:-step]
        yield wide[:-step][same], wide[step:][same]
    first = np.searchsorted(numbers, numbers)
    later = first < np.arange(len(numbers)) - NEIGHBOURS
    yield wide[first][later], wide[later]


def _common(holds: csr_matrix, pairs: Pairs) -> np.ndarray:
    """Return how many grams both of each pair hold."""
    both = holds[pairs[:, 0]].multiply(holds[pairs[:, 1]])
    return np.asarray(both.sum(axis=1)).reshape(-1)
