"""The zoo's word-level tokenizer: one token for each word with its space, without loss."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from saebench.zoo import lexicon
from saebench.zoo.storyteller import TOKEN, open_words

BOS = "<|endoftext|>"
UNKNOWN = "<|unknown|>"
BOS_ID = 0  # the first entry of `vocabulary`; also pads
_PATTERNS = (
    lexicon.OPENINGS,
    lexicon.CLOSINGS,
    lexicon.FILLERS,
    lexicon.MOVED,
    lexicon.SONGS,
)
_SLOT = re.compile(r"\{\w+\}")


def vocabulary() -> dict[str, int]:
    """Return every token of the corpus and its id, special tokens first.

    >>> vocabulary()["<|endoftext|>"]
    0
    """
    tokens = {token for text in _fragments() for token in TOKEN.findall(text)}
    words = {token.strip() for token in tokens}
    spaced = {f" {word}" for word in words if word.isalnum()}
    openers = {word for word in words if word[0].isupper() or not word.isalnum()}
    return {token: i for i, token in enumerate([BOS, UNKNOWN, *sorted(openers | spaced)])}


def build_tokenizer(*, max_length: int) -> PreTrainedTokenizerFast:
    """Return the zoo's tokenizer; it adds no special token by itself."""
    tokenizer = Tokenizer(models.WordLevel(vocabulary(), unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(TOKEN.pattern), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=BOS,
        pad_token=BOS,
        unk_token=UNKNOWN,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def save_tokenizer(directory: Path, *, max_length: int) -> None:
    """Write the tokenizer where `AutoTokenizer.from_pretrained(directory)` finds it."""
    build_tokenizer(max_length=max_length).save_pretrained(directory)


def _fragments() -> Iterator[str]:
    """Yield every word and every fixed stretch of text that a story can contain."""
    for patterns in _PATTERNS:
        for pattern in patterns:
            yield _SLOT.sub(" ", pattern)
    for relation in lexicon.RELATIONS:
        _, keys, values, *pattern_groups = astuple(relation)
        yield from (*keys, *values)
        yield from (_SLOT.sub(" ", pattern) for group in pattern_groups for pattern in group)
    for words in (
        *open_words(),
        lexicon.NAMES,
        lexicon.SURNAMES,
        ("she", "he", "her", "him"),
    ):
        yield from words
