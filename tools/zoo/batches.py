"""Token batches of stories, each story at the start of its own sequence."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from saebench.zoo import corpus
from tools.zoo.tokenizer import BOS_ID

IGNORED = -100


def story_ids(
    tokenizer: PreTrainedTokenizerFast, seed: int, *, start: int, n: int, context: int
) -> list[list[int]]:
    """Return BOS and the first `context` − 1 tokens of each of `n` stories."""
    texts = [corpus.document(seed, index) for index in range(start, start + n)]
    return [ids[:context] for ids in with_bos(tokenizer, texts)]


def with_bos(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[list[int]]:
    """Return BOS and all token ids of each text."""
    encoded = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    return [[BOS_ID, *encoding.ids] for encoding in encoded]


def pad(sequences: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Return right-padded ids and their labels, which ignore the padding."""
    width = max(map(len, sequences))
    ids = torch.full((len(sequences), width), BOS_ID)
    labels = torch.full((len(sequences), width), IGNORED)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = labels[row, : len(sequence)] = torch.tensor(sequence)
    return ids, labels


def training_batches(
    tokenizer: PreTrainedTokenizerFast,
    texts: Iterator[str],
    *,
    context: int,
    batch_tokens: int,
    pool_documents: int,
    generator: torch.Generator,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of about `batch_tokens` tokens, texts of like length together."""
    while True:
        encoded = with_bos(tokenizer, list(itertools.islice(texts, pool_documents)))
        pool = [ids[:context] for ids in encoded]
        groups = _by_length(pool, batch_tokens=batch_tokens)
        for i in torch.randperm(len(groups), generator=generator).tolist():
            yield pad(groups[i])


def _by_length(pool: list[list[int]], *, batch_tokens: int) -> list[list[list[int]]]:
    """Cut the pool, sorted by length, into groups that fill `batch_tokens` when padded."""
    groups: list[list[list[int]]] = [[]]
    for sequence in sorted(pool, key=len):
        if (len(groups[-1]) + 1) * len(sequence) > batch_tokens:
            groups.append([])
        groups[-1].append(sequence)
    return groups
