"""Generator of the demo's stories: facts are stated, and recalled later by a last word.

Random choices use `Random.random` alone, whose stream is the same in every version of Python.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from saebench.zoo import lexicon
from saebench.zoo.lexicon import HABITS, TITLES, Relation

T = TypeVar("T")


def generator(seed: int, index: int) -> Random:
    """Return the generator of text `index` of corpus `seed`."""
    digest = hashlib.sha256(f"saebench-demo/{seed}/{index}".encode()).digest()
    return Random(int.from_bytes(digest[:8], "big"))


def pick(rng: Random, items: Sequence[T]) -> T:
    """Return one of `items`, by `random()` alone, whose stream Python keeps stable."""
    return items[int(rng.random() * len(items))]


def draw(rng: Random, items: Sequence[T], n: int) -> list[T]:
    """Return `n` different elements of `items` in random order."""
    pool = list(items)
    return [pool.pop(int(rng.random() * len(pool))) for _ in range(n)]


TOKEN = re.compile(r" ?\w+|[^\w\s]")


def count_tokens(text: str) -> int:
    """Return the number of words and punctuation marks of `text`, as the tokenizer counts."""
    return len(TOKEN.findall(text))


def words(text: str) -> list[str]:
    """Return the words of `text` in order, without spaces and punctuation."""
    return [word for token in TOKEN.findall(text) if (word := token.strip()).isalnum()]


FULL_NAME_SHARE = 0.3
RHYME_SHARE = 0.1
TITLE_SHARE = 0.75
SONG_SHARE = 0.08
SONG_WORDS = (
    *lexicon.OBJECTS,
    *lexicon.ANIMALS,
    *lexicon.FOODS,
    *lexicon.PLACES,
    *lexicon.COLOURS,
    *lexicon.JOBS,
    *lexicon.TROUBLES,
    *lexicon.NAMES,
)
_SLOT = re.compile(r"\{(\w+)\}")
_OPEN_SLOTS: dict[str, tuple[str, ...]] = {
    "adj": lexicon.ADJECTIVES,
    "adv": lexicon.ADVERBS,
    "animal": lexicon.ANIMALS,
    "colour": lexicon.COLOURS,
    "feel": lexicon.FEELINGS,
    "food": lexicon.FOODS,
    "job": lexicon.JOBS,
    "move": lexicon.MOVES,
    "num": lexicon.NUMBERS,
    "object": lexicon.OBJECTS,
    "place": lexicon.PLACES,
    "sound": lexicon.SOUNDS,
    "time": lexicon.TIMES,
    "trouble": lexicon.TROUBLES,
}


@dataclass(frozen=True)
class Recall:
    """A point in a story where the next word follows from an earlier sentence."""

    prefix: str
    answer: str
    kind: str
    tokens_before: int
    distance: int
    rivals: tuple[str, ...]


@dataclass(frozen=True)
class Story:
    """One story and the recalls in it, in order."""

    text: str
    recalls: tuple[Recall, ...]


@dataclass
class _Fact:
    relation: Relation
    key: str
    value: str
    last_seen: int


@dataclass
class _Telling:
    rng: Random
    cast: list[str]
    surnames: dict[str, str]
    season: str
    song: str
    parts: list[str] = field(default_factory=list)
    n_tokens: int = 0
    facts: list[_Fact] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    bound: set[tuple[str, str]] = field(default_factory=set)
    recalls: list[Recall] = field(default_factory=list)


def tell(rng: Random) -> Story:
    """Return a new story with its recalls, determined by `rng`."""
    telling = _begin(rng)
    if rng.random() < RHYME_SHARE:
        _rhyme(telling)
    else:
        _tale(telling)
    return Story(" ".join(telling.parts), tuple(telling.recalls))


def open_words() -> Iterator[tuple[str, ...]]:
    """Yield the lists of words that fill the open slots of the patterns."""
    yield from _OPEN_SLOTS.values()
    yield tuple(lexicon.SEASONS)
    for season in lexicon.SEASONS.values():
        yield from season.values()


def _target_length(rng: Random) -> int:
    kind = rng.random()
    low, high = (20, 100) if kind < 0.3 else (100, 250) if kind < 0.45 else (256, 320)
    return low + int(rng.random() * (high - low))


def _begin(rng: Random) -> _Telling:
    cast = draw(rng, lexicon.NAMES, 3 + int(rng.random() * 3))
    surnames = dict(zip(cast, draw(rng, lexicon.SURNAMES, len(cast)), strict=True))
    song = " ".join(draw(rng, SONG_WORDS, 4 + int(rng.random() * 7)))
    telling = _Telling(rng, cast, surnames, pick(rng, tuple(lexicon.SEASONS)), song)
    telling.used.update(cast)
    if rng.random() < 0.7:
        _say(telling, pick(rng, lexicon.OPENINGS))
    return telling


def _rhyme(telling: _Telling) -> None:
    for _ in range(3 + int(telling.rng.random() * 5)):
        _sing(telling)


def _tale(telling: _Telling) -> None:
    target = _target_length(telling.rng)
    while telling.n_tokens < target:
        _section(telling, target)
    _say(telling, pick(telling.rng, lexicon.CLOSINGS))


def _section(telling: _Telling, target: int) -> None:
    rng = telling.rng
    _tell_group(telling)
    for _ in range(int(rng.random() * 2)):
        _say_filler(telling)
    for _ in range(4 + int(rng.random() * 6)):
        if telling.n_tokens >= target:
            return
        _step(telling)


def _step(telling: _Telling) -> None:
    dice = telling.rng.random()
    if dice < 0.75:
        _recall(telling)
    elif dice < 0.8:
        _move(telling)
    elif dice < 0.8 + SONG_SHARE:
        _sing(telling)
    else:
        _say_filler(telling)


def _tell_group(telling: _Telling) -> None:
    rng = telling.rng
    relation = pick(rng, TITLES if rng.random() < TITLE_SHARE else HABITS)
    for fact in _new_facts(telling, relation, 2 + int(rng.random() * 2)):
        _say(telling, pick(rng, relation.tells), {"k": fact.key, "v": fact.value})
        fact.last_seen = telling.n_tokens
        telling.facts.append(fact)
        if rng.random() < 0.15:
            _say_filler(telling)


def _new_facts(telling: _Telling, relation: Relation, n: int) -> Iterator[_Fact]:
    """Yield up to `n` facts whose keys and values this relation has not used in the story."""
    people = [name for name in telling.cast if (relation.name, name) not in telling.bound]
    for name in draw(telling.rng, people, min(len(people), n)):
        telling.bound.add((relation.name, name))
        if relation.name == "surname":
            yield _Fact(relation, name, telling.surnames[name], 0)
        elif relation.name == "job":
            yield _Fact(relation, _unused(telling, relation.keys), name, 0)
        elif relation.keys:
            key, value = (_unused(telling, side) for side in (relation.keys, relation.values))
            yield _Fact(relation, key, value, 0)
        else:
            yield _Fact(relation, name, _unused(telling, relation.values), 0)


def _unused(telling: _Telling, words: Sequence[str]) -> str:
    while (word := pick(telling.rng, words)) in telling.used:
        pass
    telling.used.add(word)
    return word


def _move(telling: _Telling) -> None:
    placed = [fact for fact in telling.facts if fact.relation.name == "place"]
    if not placed:
        return _say_filler(telling)
    fact = pick(telling.rng, placed)
    slots = {"k": fact.key, "old": fact.value, "v": _unused(telling, lexicon.PLACES)}
    _say(telling, pick(telling.rng, lexicon.MOVED), slots)
    fact.value, fact.last_seen = slots["v"], telling.n_tokens
    return None


def _recall(telling: _Telling) -> None:
    rng = telling.rng
    fact = _fact_to_recall(telling)
    backwards = bool(fact.relation.reverse) and rng.random() < 0.35
    patterns = fact.relation.reverse if backwards else fact.relation.recalls
    stem = _fill(telling, pick(rng, patterns), {"k": fact.key, "v": fact.value})
    _note_recall(telling, fact, stem, backwards=backwards)
    _append(telling, f"{stem} {fact.key if backwards else fact.value}.")
    fact.last_seen = telling.n_tokens


def _fact_to_recall(telling: _Telling) -> _Fact:
    oldest_first = sorted(telling.facts, key=lambda fact: fact.last_seen)
    if telling.rng.random() < 0.5:
        return pick(telling.rng, oldest_first[: max(1, len(oldest_first) // 3)])
    return pick(telling.rng, oldest_first)


def _note_recall(telling: _Telling, fact: _Fact, stem: str, *, backwards: bool) -> None:
    family = [other for other in telling.facts if other.relation is fact.relation]
    rivals = telling.cast if backwards else [other.value for other in family]
    answer = fact.key if backwards else fact.value
    before = telling.n_tokens + count_tokens(stem)
    telling.recalls.append(
        Recall(
            prefix=" ".join([*telling.parts, stem]),
            answer=answer,
            kind="friend" if backwards else fact.relation.name,
            tokens_before=before,
            distance=before - fact.last_seen,
            rivals=tuple(name for name in rivals if name != answer),
        )
    )


def _sing(telling: _Telling) -> None:
    _say(telling, pick(telling.rng, lexicon.SONGS))


def _say_filler(telling: _Telling) -> None:
    _say(telling, pick(telling.rng, lexicon.FILLERS))


def _say(telling: _Telling, pattern: str, slots: dict[str, str] | None = None) -> None:
    _append(telling, _fill(telling, pattern, slots or {}))


def _append(telling: _Telling, sentence: str) -> None:
    telling.parts.append(sentence)
    telling.n_tokens += count_tokens(sentence)


def _fill(telling: _Telling, pattern: str, slots: dict[str, str]) -> str:
    who, who2 = draw(telling.rng, telling.cast, 2)
    bound = {"who": who, "who2": who2, "season": telling.season, "song": telling.song}
    is_girl = slots.get("k", who) in lexicon.GIRLS
    bound |= {"pron": "she" if is_girl else "he", "obj": "her" if is_girl else "him"}
    bound |= {slot: _in_full(telling, bound[slot]) for slot in ("who", "who2")} | slots

    def word(match: re.Match[str]) -> str:
        slot = match[1]
        if slot in bound:
            return bound[slot]
        return pick(telling.rng, lexicon.SEASONS[telling.season].get(slot) or _OPEN_SLOTS[slot])

    return _SLOT.sub(word, pattern)


def _in_full(telling: _Telling, name: str) -> str:
    if telling.rng.random() < FULL_NAME_SHARE:
        return f"{name} {telling.surnames[name]}"
    return name
