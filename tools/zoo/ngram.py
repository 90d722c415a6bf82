"""A position-independent baseline: the most frequent continuation of the last n−1 tokens."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from saebench.zoo.corpus import ClozePrompt
from saebench.zoo.storyteller import TOKEN

MAX_ORDER = 3


@dataclass(frozen=True)
class NgramModel:
    """Counts of the words that followed each context of up to two tokens."""

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
