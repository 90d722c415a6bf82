"""The demo's corpus: endless seeded stories, and cloze prompts whose answers they determine."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal

from saebench.zoo import lexicon
from saebench.zoo.storyteller import SONG_WORDS, Recall, Story, draw, generator, pick, tell, words

SPLITS = ("train", "sae", "heldout", "cloze", "validation")
Kind = Literal["lambada", "cbt"]
KINDS: tuple[Kind, ...] = ("lambada", "cbt")
N_OPTIONS = 10
MIN_RIVALS = 2
_LENGTHS: dict[str, tuple[int, int]] = {"lambada": (28, 62), "cbt": (128, 240)}
_VALUES = {relation.name: relation.values for relation in lexicon.RELATIONS}


def split_seed(split: str, *, seed: int = 0) -> int:
    """Return the corpus seed of a named split; different splits share no seed.

    >>> split_seed("train") == split_seed("heldout")
    False

    Raises:
        ValueError: There is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
    return seed * len(SPLITS) + SPLITS.index(split)


def document(seed: int, index: int) -> str:
    """Return the text of story `index` of the corpus `seed`.

    >>> document(0, 7) == document(0, 7)
    True
    """
    return story(seed, index).text


def rhyme(seed: int, index: int) -> str:
    """Return a text of a few random words, repeated: the model's first lesson in recall."""
    rng = generator(seed, index)
    song = draw(rng, SONG_WORDS, 4 + int(rng.random() * 9))
    target = 24 + int(rng.random() * 230)
    repeated = itertools.islice(itertools.cycle(song), target)
    return f"{pick(rng, lexicon.NAMES)} sang: {' '.join(repeated)}"


def lesson_texts(seed: int, rhyme_every: int, *, start: int = 0) -> Iterator[str]:
    """Yield stories of corpus `seed` without end, every `rhyme_every`th text a rhyme instead."""
    for index in itertools.count(start):
        yield rhyme(seed, index) if index % rhyme_every == 0 else document(seed, index)


def documents(seed: int, *, start: int = 0) -> Iterator[str]:
    """Yield the stories of corpus `seed` from number `start` on, without end."""
    return (document(seed, index) for index in itertools.count(start))


def story(seed: int, index: int) -> Story:
    """Return story `index` of the corpus `seed` together with its recalls."""
    return tell(generator(seed, index))


@dataclass(frozen=True)
class ClozePrompt:
    """A text without its last word, that word, and the CBT kind's ten options."""

    prompt: str
    answer: str
    options: tuple[str, ...] | None = None


def prompts(seed: int, n: int, *, kind: Kind = "lambada") -> list[ClozePrompt]:
    """Return the first `n` cloze prompts of `seed`, at most one from a story.

    LAMBADA prompts have 28 to 62 tokens, CBT prompts 128 to 240 and ten options.

    >>> prompts(0, 1)[0].answer in prompts(0, 1)[0].prompt
    True
    """
    return list(itertools.islice(_stream(split_seed("cloze", seed=seed), kind), n))


def _stream(seed: int, kind: Kind) -> Iterator[ClozePrompt]:
    low, high = _LENGTHS[kind]
    for index in itertools.count():
        rng = Random(index)
        fit = [r for r in story(seed, index).recalls if low <= r.tokens_before <= high]
        fair = [r for r in fit if len(_rivals_in_context(r)) >= MIN_RIVALS]
        if fair:
            yield _prompt(pick(rng, fair), rng, kind=kind)


def _rivals_in_context(recall: Recall) -> list[str]:
    mentioned = set(words(recall.prefix))
    return [rival for rival in dict.fromkeys(recall.rivals) if rival in mentioned]


def _prompt(recall: Recall, rng: Random, *, kind: Kind) -> ClozePrompt:
    options = _options(recall, rng) if kind == "cbt" else None
    return ClozePrompt(recall.prefix, recall.answer, options)


def _options(recall: Recall, rng: Random) -> tuple[str, ...]:
    """Return the answer, its rivals in the text, and others of its kind, in random order."""
    wrong = _rivals_in_context(recall)[: N_OPTIONS - 1]
    others = [w for w in _VALUES[recall.kind] if w != recall.answer and w not in wrong]
    wrong += draw(rng, others, N_OPTIONS - 1 - len(wrong))
    return tuple(draw(rng, [recall.answer, *wrong], N_OPTIONS))
