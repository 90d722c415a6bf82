"""Cloze prompts from files, saved data sets and the hub: LAMBADA, the Children's Book Test."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from saebench.data.cloze_tokens import ClozePrompt
from saebench.data.data_sets import (
    Row,
    Rows,
    directory_and_split,
    directory_rows,
    named_rows,
)
from saebench.data.documents import check_spec, described
from saebench.data.order import Indexed, Ways, ordered
from saebench.data.random_access import JsonLines, ParquetRows
from saebench.data.rows import MARK, jsonl_rows, parquet_rows
from saebench.errors import DataError
from saebench.options import Order
from saebench.text import from_system, is_unicode

OPTION = "--sae-cloze"
BLANK = "XXXXX"
CBT_FIELDS = ("sentences", "question", "answer", "options")
# Names of docs/metrics.md and their data sets, whichever of the names is in the cache.
NAMED = {
    "lambada_openai": ("EleutherAI/lambada_openai:default:test",),
    "lambada": ("cimec/lambada:plain_text:test", "lambada:plain_text:test"),
    "cbt_cn": ("cam-cst/cbt:CN:test", "cbt:CN:test"),
}
# For each kind of file what reads it from its start, and what opens it for reading at any place.
FILES: dict[str, tuple[Callable[[Path], Iterator[Row]], Callable[[Path], Indexed[Row]]]] = {
    ".jsonl": (partial(jsonl_rows, option=OPTION), partial(JsonLines, option=OPTION)),
    ".parquet": (parquet_rows, ParquetRows),
}


@dataclass(frozen=True)
class Prompts:
    """A source of cloze prompts, with its name in the result file.

    Attributes:
        name: of the file or data set.
        split: of the data set; None for a file.
        revision: of the data set.
        read: yields the prompts from the start.
        ways: the other ways to read them.
        order: the order in which ``read`` gives them, in words; None for their own.
        places: the place in the source of each prompt of ``read``; None for 0, 1, 2, …
    """

    name: str
    split: str | None
    revision: str | None
    read: Callable[[], Iterator[ClozePrompt]]
    ways: Ways[ClozePrompt] = Ways()
    order: str | None = None
    places: tuple[int, ...] | None = None

    def taken(self, count: int, order: Order, *, seed: int) -> "Prompts":
        """Return the prompts that a run takes, read into memory.

        Args:
            count: their number; fewer are returned where there are no more.
            order: drawn by the seed from all of them, or the first.
            seed: the run's.

        Raises:
            DataError: where one of them cannot be read.
        """
        source = ordered(self.read, self.ways, order=order, seed=seed, kind="prompts")
        numbered = tuple(islice(source.read(), count))
        prompts = tuple(prompt for _, prompt in numbered)
        return replace(
            self,
            read=lambda: iter(prompts),
            ways=Ways(),
            order=source.order,
            places=tuple(place for place, _ in numbered),
        )

    def __iter__(self) -> Iterator[ClozePrompt]:
        """Read the prompts from the start."""
        return self.read()


def open_prompts(spec: str) -> Prompts:
    """Return the cloze prompts that a SPEC names.

    Args:
        spec: ``lambada_openai``, ``lambada`` or ``cbt_cn``, from the Hugging Face cache or the
            hub; a .jsonl or .parquet file; a directory written by ``datasets.save_to_disk`` or
            holding such files; or another data set, ``NAME:SPLIT`` or ``NAME:CONFIG:SPLIT``.

    A row has ``text``, whose last word is then the answer; or ``prompt`` and ``answer``, with
    ``options`` to choose from; or the Children's Book Test's ``sentences``, ``question`` with
    XXXXX in it, ``answer`` and ``options``.

    Raises:
        DataError: where there is no such file or data set.
    """
    check_spec(spec, option=OPTION)
    path = Path(os.path.expanduser(spec))
    directory = directory_and_split(spec)
    if spec in NAMED and not path.exists():
        return _of_rows(_first_available(spec))
    if directory is not None:
        return _of_rows(directory_rows(directory[0], split=directory[1], option=OPTION))
    if path.suffix in FILES or path.is_file() or ":" not in spec:
        return _file(path)
    return _of_rows(named_rows(spec, option=OPTION, split="test"))


def split_last_word(text: str) -> ClozePrompt:
    """Return a passage without its last word, and that word, as the public harness splits it.

    Source:
        lm-evaluation-harness, task lambada_openai.

    Example:
        >>> split_last_word("Ann saw Bob")
        ClozePrompt(prompt='Ann saw', answer='Bob', options=(), rest='')
    """
    prompt, _, answer = text.rstrip().rpartition(" ")
    return ClozePrompt(prompt, answer)


def prompt_of(row: Any, *, where: str) -> ClozePrompt:
    """Return the prompt in a row.

    Raises:
        DataError: naming the row's location and the field.
    """
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected an object, found {type(row).__name__}")
    row = {k: v.removeprefix(MARK) if isinstance(v, str) else v for k, v in row.items()}
    if any(field in row for field in ("sentences", "question")):
        prompt = _cbt(row, where)
    elif isinstance(row.get("text"), str):
        prompt = split_last_word(row["text"])
    else:
        prompt = _plain(row, where)
    texts = (prompt.prompt, prompt.answer, prompt.rest, *prompt.options)
    if not is_unicode("".join(texts)):
        raise DataError(f"{where}: half a character (a lone surrogate) in {prompt.prompt[:40]!r}")
    if not prompt.prompt.strip() or not prompt.answer.strip():
        raise DataError(f"{where}: the prompt or its last word is empty")
    if prompt.options and prompt.answer.strip() not in prompt.options:
        raise DataError(f"{where}: the answer {prompt.answer!r} is not among {prompt.options}")
    return prompt


def _file(path: Path) -> Prompts:
    read, opened = FILES.get(path.suffix, FILES[".jsonl"])
    if not path.is_file():
        known = ", ".join(NAMED)
        raise DataError(
            f"{OPTION} {path}: No such file; expected one of {', '.join(FILES)}, a saved data set, "
            f"{known}, or another data set's NAME:SPLIT"
        )
    ways = Ways(indexed=partial(opened, path))
    return _of_rows(Rows(from_system(path.name), None, None, partial(read, path), ways))


def _of_rows(rows: Rows) -> Prompts:
    return Prompts(
        rows.name, rows.split, rows.revision,
        lambda: map(_prompt, rows.read()), rows.ways.converted(_prompt),
    )  # fmt: skip


def _prompt(row: Row) -> ClozePrompt:
    where, columns = row
    return prompt_of(columns, where=where)


def _first_available(name: str) -> Rows:
    """Return the rows of the first of a data set's names that can be opened."""
    errors: list[DataError] = []
    for spec in NAMED[name]:
        try:
            return named_rows(spec, option=OPTION)
        except DataError as error:
            errors.append(error)
    raise DataError("; ".join(str(error) for error in errors)) from errors[0]


def _plain(row: dict[str, Any], where: str) -> ClozePrompt:
    for field in ("prompt", "answer"):
        if not isinstance(row.get(field), str):
            raise DataError(
                f"{where}: expected a string under {field!r} (or a passage under 'text'), "
                f"found {_value(row, field)}"
            )
    return ClozePrompt(row["prompt"], row["answer"], _words(row, "options", where))


def _value(row: dict[str, Any], field: str) -> str:
    """Describe what a row has instead of a string: a field's value, or its columns."""
    named = next((name for name in (field, "text") if name in row), None)
    return str(sorted(row)) if named is None else f"{described(row[named])} under {named!r}"


def _cbt(row: dict[str, Any], where: str) -> ClozePrompt:
    """Return the prompt of sentences and question up to the blank, with the rest after it."""
    for field in CBT_FIELDS:
        if row.get(field) is None:
            raise DataError(f"{where}: expected {field!r}, found {sorted(row)}")
    for field in ("question", "answer"):
        if not isinstance(row[field], str):
            raise DataError(f"{where}: expected a string under {field!r}, found {row[field]!r}")
    before, blank, after = row["question"].partition(BLANK)
    if not blank or BLANK in after:
        raise DataError(f"{where}: expected {BLANK} once in 'question', found {row['question']!r}")
    sentences = [sentence.strip() for sentence in _words(row, "sentences", where)]
    prompt = " ".join([*sentences, before.strip()]).strip()
    options = _words(row, "options", where)
    if not options:
        raise DataError(f"{where}: no word to choose from under 'options'")
    return ClozePrompt(prompt, row["answer"], options, after.rstrip())


def _words(row: dict[str, Any], field: str, where: str) -> tuple[str, ...]:
    """Return a list of strings; options without repetitions."""
    words = [] if row.get(field) is None else row[field]
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise DataError(f"{where}: expected a list of strings under {field!r}, found {words!r}")
    return (
        tuple(dict.fromkeys(word.strip() for word in words)) if field == "options" else tuple(words)
    )
