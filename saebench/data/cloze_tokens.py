"""Cloze prompts as tokens: the last word is predicted, which only earlier context determines."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saebench.data.grams import gram_length
from saebench.data.near_copies import clusters_of
from saebench.errors import DataError


@dataclass(frozen=True)
class ClozePrompt:
    """A prompt and the word that comes next.

    Attributes:
        prompt: the text before the word.
        answer: the word.
        options: for CBT, the words to choose from.
        rest: for CBT, the rest of the sentence after the word.
    """

    prompt: str
    answer: str
    options: tuple[str, ...] = ()
    rest: str = ""


@dataclass(frozen=True)
class Choice:
    """A prompt's options as token ids, each followed by the rest of the sentence.

    Attributes:
        tails: the ids.
        right: the index of the answer.
    """

    tails: tuple[tuple[int, ...], ...]
    right: int


@dataclass(frozen=True)
class ClozeTokens:
    """Prompts with their answers as token ids, right-padded.

    Attributes:
        ids: prompt and answer; the padding comes last, where causal attention ignores it.
        length: tokens of prompt and answer.
        answer: tokens of the answer alone.
        counted: the prompt's tokens that are substituted: not position 0, no special token, no
            answer, no padding.
        cut: number of prompts that were shortened from the left to the model's context.
        choices: each prompt's options, None for one without; empty where no prompt has any.
        clusters: for each prompt the index of the first one of its text: equal ones and
            near-copies are of one; None where all differ.
        places: each prompt's place in its source; None where it is not known.
    """

    ids: Int[Tensor, "prompts pos"]
    length: Int[Tensor, "prompts"]
    answer: Int[Tensor, "prompts"]
    counted: Bool[Tensor, "prompts pos"]
    cut: int
    choices: tuple[Choice | None, ...] = ()
    clusters: Int[np.ndarray, "prompts"] | None = None
    places: Int[np.ndarray, "prompts"] | None = None

    def part(self, rows: slice) -> "ClozeTokens":
        """Return some of the prompts."""
        tables: dict[str, Any] = {
            name: getattr(self, name)[rows] for name in ("ids", "length", "answer", "counted")
        }
        cut = self.cut if rows.start == 0 else 0  # counted once
        tables |= {
            name: None if array is None else array[rows]
            for name, array in (("clusters", self.clusters), ("places", self.places))
        }
        return replace(self, **tables, cut=cut, choices=self.choices[rows])

    @property
    def independent(self) -> int:
        """Number of independent prompts: of clusters, or of prompts where all differ."""
        return len(self.ids) if self.clusters is None else len(np.unique(self.clusters))

    @property
    def tokens(self) -> int:
        """Number of tokens to run: prompts with answers, and prompts with options."""
        begin = (self.length - self.answer).tolist()
        offered = zip(begin, self.choices, strict=True) if self.choices else ()
        return self.ids.numel() + sum(n + sum(map(len, c.tails)) for n, c in offered if c)

    @property
    def largest(self) -> int:
        """The largest token id in prompts, answers and options."""
        tails = (max(tail) for choice in self.choices if choice for tail in choice.tails)
        return max([int(self.ids.max()), *tails])

    @property
    def fingerprint(self) -> str:
        """SHA-256 of ids, lengths, answers and, where there are any, options."""
        digest = hashlib.sha256(self.ids.numpy().tobytes())
        digest.update(self.length.numpy().tobytes())
        digest.update(self.answer.numpy().tobytes())
        if self.choices:
            digest.update(repr(self.choices).encode())
        return digest.hexdigest()


def tokenise(
    prompts: Iterable[ClozePrompt],
    tokenizer: Any,
    *,
    context: int,
    prepend_bos: bool,
    special_ids: frozenset[int],
    bos: int | None = None,
    places: Sequence[int] | None = None,
) -> ClozeTokens:
    """Return prompts and answers as ids: trailing space stripped, cut from the left.

    Args:
        prompts: the prompts.
        tokenizer: the model's.
        context: the longest sequence the model takes.
        prepend_bos: BOS first, where the tokenizer has one.
        special_ids: ids that are never substituted.
        bos: the first token; by default the tokenizer's BOS.
        places: each prompt's place in its source; by default 0, 1, 2, …

    Raises:
        DataError: without prompts, or for one that leaves no room for its answer.

    Source:
        docs/metrics.md (cloze).
    """
    first = (tokenizer.bos_token_id if bos is None else bos) if prepend_bos else None
    begin = [] if first is None else [first]
    rows, answers, choices, cut, characters = [], [], [], 0, 0
    for each in prompts:
        head, tail, choice = _ids(each, tokenizer)
        longest = max(len(t) for t in (tail, *(choice.tails if choice else ())))
        room = context - longest - len(begin)
        if room < 1 or not head or not tail:
            number = 1 + (len(rows) if places is None else places[len(rows)])
            raise DataError(
                f"cloze prompt {number}, answer {each.answer[:40]!r}: {len(head)} prompt "
                f"and {longest} answer tokens do not fit a model context of {context}"
            )
        cut += len(head) > room
        characters += len(each.prompt) * min(1.0, room / len(head))
        rows.append(begin + head[-room:] + tail)
        answers.append(len(tail))
        choices.append(choice)
    if not rows:
        raise DataError("no cloze prompt was given")
    padded = _padded(rows, answers, choices if any(choices) else [], cut, special_ids)
    gram = gram_length(int(characters), int((padded.length - padded.answer).sum()))
    clusters = clusters_of(padded.ids.numpy(), lengths=padded.length.numpy(), gram=gram)
    where = np.arange(len(rows)) if places is None else np.array(places)
    return replace(padded, clusters=clusters, places=where)


def _padded(
    rows: Sequence[Sequence[int]],
    answers: Sequence[int],
    choices: Sequence[Choice | None],
    cut: int,
    special_ids: frozenset[int],
) -> ClozeTokens:
    length = torch.tensor([len(row) for row in rows])
    answer = torch.tensor(answers)
    ids = torch.zeros(len(rows), int(length.max()), dtype=torch.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    position = torch.arange(ids.shape[1])[None]
    counted = (position > 0) & (position < (length - answer)[:, None])
    for special in special_ids:
        counted &= ids != special
    return ClozeTokens(ids, length, answer, counted, cut, tuple(choices))


def _ids(each: ClozePrompt, tokenizer: Any) -> tuple[list[int], list[int], Choice | None]:
    """Return the ids of prompt and answer, and the options."""
    head_text = each.prompt.rstrip()
    head = _tokens(head_text, tokenizer)
    answer = each.answer.strip()
    tail = _continued(head_text, head, answer, tokenizer)
    if not each.options:
        return head, tail, None
    tails = (_continued(head_text, head, word + each.rest, tokenizer) for word in each.options)
    return head, tail, Choice(tuple(map(tuple, tails)), each.options.index(answer))


def _continued(head_text: str, head: list[int], words: str, tokenizer: Any) -> list[int]:
    """Tokenise prompt and continuation together, and split where the continuation begins."""
    together = _tokens(f"{head_text} {words}", tokenizer)
    tail = together[len(head) :]
    if together[: len(head)] != head or not tail:
        # The tokenizer merges across the boundary: tokenise the words alone, after a space.
        tail = _tokens(f" {words}", tokenizer)
    return tail


def _tokens(text: str, tokenizer: Any) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
