"""Scores on the zoo's card: loss, cloze accuracy, reconstruction, and an n-gram baseline."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import SAE
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from saebench.zoo.corpus import ClozePrompt
from saebench.zoo.storyteller import TOKEN
from tools.zoo import batches
from tools.zoo.card import SaeScores

MAX_ORDER = 3  # of n-grams


@torch.no_grad()
def clean_ce(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, *, corpus_seed: int, n: int
) -> float:
    """Return the mean cross-entropy in nats of all tokens of `n` stories but the first."""
    total, count = 0.0, 0
    context = model.config.n_positions
    for start in range(0, n, 16):
        stories = batches.story_ids(tokenizer, corpus_seed, start=start, n=16, context=context)
        ids, labels = batches.pad(stories)
        logits = model(input_ids=ids).logits[:, 1:-1].flatten(0, 1)
        targets = labels[:, 2:].flatten()
        total += cross_entropy(
            logits, targets, ignore_index=batches.IGNORED, reduction="sum"
        ).item()
        count += int((targets != batches.IGNORED).sum())
    return total / count


@torch.no_grad()
def cloze_hits(
    model: GPT2LMHeadModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[ClozePrompt],
    *,
    batch_size: int = 64,
) -> list[bool]:
    """Return for each prompt whether the answer is the likeliest next word, of all words."""
    hits: list[bool] = []
    for start in range(0, len(prompts), batch_size):
        part = prompts[start : start + batch_size]
        ids, labels = batches.pad(batches.with_bos(tokenizer, [p.prompt for p in part]))
        last = (labels != batches.IGNORED).sum(1) - 1
        logits = model(input_ids=ids).logits[torch.arange(len(part)), last]
        answers = tokenizer.convert_tokens_to_ids([f" {p.answer}" for p in part])
        hits += (logits.argmax(-1) == torch.tensor(answers)).tolist()
    return hits


@torch.no_grad()
def score_sae(sae: SAE[Any], activations: Tensor) -> SaeScores:
    """Return the scores of `sae` on `activations` `[n, d_in]`."""
    features = sae.encode(activations).to_dense()
    reconstruction = sae.decode(features)
    x, x_hat = activations.double(), reconstruction.double()
    variance = (x - x.mean(0)).square().sum()
    fired = features != 0
    return SaeScores(
        explained_variance=1 - ((x - x_hat).square().sum() / variance).item(),
        l2_ratio=(x_hat.norm(dim=-1) / x.norm(dim=-1)).mean().item(),
        l0=fired.sum(-1).double().mean().item(),
        dead=(~fired.any(0)).double().mean().item(),
    )


@dataclass(frozen=True)
class NgramModel:
    """Counts of the words after each context of up to two tokens, whatever their position."""

    followers: dict[tuple[str, ...], Counter[str]]

    def predict(
        self, prompt: str, *, order: int, options: Sequence[str] | None = None
    ) -> str | None:
        """Return the likeliest next word (of `options`) after the last `order` − 1 tokens."""
        tokens = TOKEN.findall(prompt)
        context = tuple(tokens[len(tokens) - order + 1 :])
        counts = self.followers.get(context, Counter())
        candidates = counts if options is None else options
        return max(candidates, key=lambda word: counts[word], default=None)


def fit_ngrams(texts: Iterable[str]) -> NgramModel:
    """Count unigrams, bigrams and trigrams of words in `texts`."""
    followers: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for text in texts:
        tokens = TOKEN.findall(text)
        for position, token in enumerate(tokens):
            for order in range(1, min(MAX_ORDER, position + 1) + 1):
                followers[tuple(tokens[position - order + 1 : position])][token.strip()] += 1
    return NgramModel(dict(followers))


def best_accuracy(model: NgramModel, prompts: Sequence[ClozePrompt]) -> float:
    """Return the accuracy on `prompts` of the best order, 1 to 3."""
    hits = [
        sum(model.predict(p.prompt, order=order, options=p.options) == p.answer for p in prompts)
        for order in range(1, MAX_ORDER + 1)
    ]
    return max(hits) / len(prompts)
