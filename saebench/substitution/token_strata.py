"""Strata: KL by a token's frequency, type and position, and of single token ids."""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from torch import Tensor

from saebench.data.tokens import TokenSet
from saebench.measures.names import in_stratum
from saebench.measures.state import State, stacked, state
from saebench.measures.sums import TokenSums
from saebench.substitution.batches import Batch

DECILES, SIXTEENTHS = 10, 16
TYPES = ("word start", "continuation", "number", "punctuation", "whitespace", "other")
GROUPS = {"decile": DECILES, "type": len(TYPES), "position": SIXTEENTHS}
KL, COUNT = "sae.kl", "n.scored"
LEAST_COUNT, LEAST_TEXTS = 20, 10  # of a token id that has a stratum of its own
MOST_IDS = 512


def type_of(text: str) -> int:
    """Return the index in ``TYPES`` of a token's type.

    Letters after a space, or with a capital first, start a word.

    Example:
        >>> [TYPES[type_of(text)] for text in (" the", "ing", " 42", "!?", " ")]
        ['word start', 'continuation', 'number', 'punctuation', 'whitespace']
    """
    plain = text.strip().strip("▁Ġ")
    if not plain:
        return TYPES.index("whitespace")
    if any(letter.isalpha() for letter in plain):
        starts = plain[0] != text[0] or plain[0].isupper()
        return TYPES.index("word start" if starts else "continuation")
    if any(letter.isdigit() for letter in plain):
        return TYPES.index("number")
    marks = all(unicodedata.category(letter)[0] in "PS" for letter in plain)
    return TYPES.index("punctuation" if marks else "other")


def deciles(counts: Int[np.ndarray, "vocabulary"]) -> Int[np.ndarray, "vocabulary"]:
    """Return each token id's group of ten with about as many occurrences; 9 is the rarest.

    An id is in the group in which the middle of its occurrences lies, when ids are ordered from the
    most frequent on. A very frequent id may leave groups empty. Ids without a count are rare.

    Args:
        counts: occurrences of each id.

    Example:
        >>> deciles(np.array([1, 5, 0, 4]))
        array([9, 2, 9, 7])
    """
    order = np.argsort(-counts, kind="stable")
    middle = np.cumsum(counts[order]) - counts[order] / 2
    groups = np.empty(len(counts), dtype=np.int64)
    groups[order] = np.floor(DECILES * middle / max(1, counts.sum()))
    groups[counts == 0] = DECILES - 1
    return np.minimum(groups, DECILES - 1)


@dataclass(frozen=True)
class Strata:
    """The stratum of every token, by its id.

    Attributes:
        decile: of each id.
        type: of each id.
        column: of each id that has a stratum of its own; -1 for the others.
        ids: the ids that have one, in the columns' order.
        texts: their texts.
    """

    decile: Int[Tensor, "vocabulary"]
    type: Int[Tensor, "vocabulary"]
    column: Int[Tensor, "vocabulary"]
    ids: tuple[int, ...]
    texts: tuple[str, ...]

    @classmethod
    def of(
        cls,
        corpus: TokenSet,
        ids: Int[Tensor, "sequences context"],
        *,
        text: Callable[[int], str],
        device: torch.device,
    ) -> "Strata":
        """Return the strata of a run.

        Args:
            corpus: the run's first sequences, in any shard: frequencies are counted here.
            ids: all ids of the run.
            text: a token's text by its id.
            device: the model's.
        """
        size = int(ids.max()) + 1
        row, _ = corpus.counted.nonzero(as_tuple=True)
        flat = corpus.ids[corpus.counted].numpy()
        counts = np.bincount(flat, minlength=size)
        texts = row.numpy() if corpus.clusters is None else corpus.clusters[row.numpy()]
        pairs = np.unique(np.stack([flat, texts]), axis=1)
        spread = np.bincount(pairs[0], minlength=size)
        chosen = np.flatnonzero((counts >= LEAST_COUNT) & (spread >= LEAST_TEXTS))
        chosen = np.sort(chosen[np.argsort(-counts[chosen], kind="stable")][:MOST_IDS])
        column = np.full(size, -1)
        column[chosen] = np.arange(len(chosen))
        kinds = np.full(size, TYPES.index("other"))
        for id in ids.unique().tolist():
            kinds[id] = type_of(text(id))
        tables = (torch.from_numpy(t).to(device) for t in (deciles(counts), kinds, column))
        named = tuple(int(id) for id in chosen)
        return cls(*tables, ids=named, texts=tuple(text(id) for id in named))


@dataclass(frozen=True)
class TokenStrata(State):
    """Sums of KL by sequence of the token ids that have a stratum of their own.

    Attributes:
        kl: one column for each id.
        count: its scored tokens.
        ids: the ids.
        texts: their texts.
    """

    kl: Any = state(stacked)
    count: Any = state(stacked)
    ids: tuple[int, ...] = state()
    texts: tuple[str, ...] = state()


class StrataSums:
    """Sums of one SAE's KL by stratum.

    Args:
        strata: of the run.
        tokens: the measured sequences.
    """

    def __init__(self, strata: Strata, tokens: TokenSet) -> None:
        self._strata = strata
        self._tokens = tokens
        columns, device = len(strata.ids), strata.column.device
        self._kl = torch.zeros(len(tokens.ids) * columns, dtype=torch.float32, device=device)

    def fold(self, sums: TokenSums, batch: Batch, kl: Float[Tensor, "tokens"]) -> None:
        """Add the KL of a batch's counted tokens."""
        strata, (row, _) = self._strata, batch.at
        ids, ones = batch.ids[batch.at], torch.ones_like(kl)
        labels = {
            "decile": strata.decile[ids],
            "type": strata.type[ids],
            "position": batch.position * SIXTEENTHS // batch.ids.shape[1],
        }
        for group, label in labels.items():
            for channel, values in ((KL, kl), (COUNT, ones)):
                names = [in_stratum(channel, group, i) for i in range(GROUPS[group])]
                sums.add_by_label(names, values, labels=label, row=row, rows=batch.rows)
        column = strata.column[ids]
        own = column >= 0
        at = (row + batch.rows.start) * len(strata.ids) + column.clamp(min=0)
        if strata.ids:
            self._kl.index_add_(0, at, torch.where(own, kl.float(), 0.0))

    def by_token(self) -> TokenStrata:
        """Return the sums of single token ids so far."""
        strata, tokens = self._strata, self._tokens
        kl = self._kl.view(len(tokens.ids), -1 if strata.ids else 0).cpu().numpy()
        row, position = tokens.counted.nonzero(as_tuple=True)
        column = strata.column.cpu()[tokens.ids[row, position]].numpy()
        own = column >= 0
        count = np.zeros(kl.shape, dtype=np.int32)
        np.add.at(count, (row.numpy()[own], column[own]), 1)
        return TokenStrata(
            csr_array(kl.astype(np.float64)), csr_array(count), strata.ids, strata.texts
        )
