"""Texts given as objects: read as far as needed, or refused with what to give instead."""

import io
import itertools
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import saebench
from saebench.data.given import given_documents
from saebench.data.order import BUFFER
from saebench.errors import DataError

TEXTS = ["one story", "another", "the end"]
ROWS = [{"text": text} for text in TEXTS]
DATASET = datasets.Dataset.from_list(ROWS)
FRAME = pd.DataFrame({"id": [1, 2, 3], "text": TEXTS})


class _ByNumber:
    """A data set as torch's: length and items, and nothing more."""

    def __len__(self) -> int:
        return len(ROWS)

    def __getitem__(self, place: int) -> dict[str, str]:
        return ROWS[place]


class _Polars:
    """A data frame as polars': to go through it gives its columns, not its rows."""

    columns = ("id", "text")

    def __iter__(self):
        return iter(([1, 2, 3], TEXTS))

    def __getitem__(self, column: str) -> list:
        return {"id": [1, 2, 3], "text": TEXTS}[column]


@pytest.mark.parametrize(
    "data",
    [TEXTS, tuple(TEXTS), ROWS, iter(TEXTS), (row for row in ROWS), np.array(TEXTS), FRAME,
     FRAME["text"], DATASET, DATASET["text"], DATASET.to_iterable_dataset(), _ByNumber(), _Polars(),
     DATASET.with_format("pandas"), pa.table({"text": TEXTS}), pa.chunked_array([TEXTS])],
    ids=lambda data: type(data).__name__,
)  # fmt: skip
def test_whatever_holds_texts_gives_them_twice(data: Any):
    documents = given_documents(data)
    assert list(documents) == TEXTS
    assert list(documents) == TEXTS
    assert all(type(text) is str for text in documents)


@pytest.mark.parametrize("none", [None, float("nan"), pd.NA, pd.NaT])
def test_nothing_in_a_frame_is_a_null(none: Any):
    frame = pd.DataFrame({"text": pd.Series(["a", none, "b"], dtype=object)})
    assert list(given_documents(frame).read()) == ["a", None, "b"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (3, r"expected texts or a SPEC, found a number \(3\)"),
        (b"text", "found bytes"),
        ({"a", "b"}, "found a set"),
        (io.StringIO("a"), "found an open file; give its path"),
        ({"text": TEXTS}, r"data\['text'\]"),
        ({"train": TEXTS, "test": TEXTS}, r"data\['test'\]"),
        (datasets.DatasetDict(train=DATASET, dev=DATASET), r"'dev'.*data\['train'\]"),
        (datasets.IterableDatasetDict(test=DATASET.to_iterable_dataset()), r"data\['test'\]"),
        (FRAME.rename(columns={"text": "story"}), r"\['id', 'story'\].*data\['id'\]"),
        (DATASET.rename_column("text", "story"), r"\['story'\].*data\['story'\]"),
        (pd.DataFrame([["a", "b"]], columns=["text", "text"]), r"\['text', 'text'\]"),
        (pa.table({"story": TEXTS}), r"data\['story'\]"),
        ([["a"]], "row 1: expected a string, or a row with one under 'text', found a list"),
        ([{"text": "a"}, {"story": "b"}], r"row 2: .*found \['story'\]"),
        (["a", 3], r"row 2: .*found a number \(3\)"),
        (["a", "\ud800"], "row 2: half a character"),
        (["a", b"b"], "row 2: .*found bytes"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_holds_none_is_refused_with_what_to_give(data: Any, said: str):
    with pytest.raises(DataError, match=said):
        list(given_documents(data))


def test_a_stream_that_breaks_names_the_row_and_the_error():
    def broken():
        yield "fine"
        raise ConnectionError("gone")

    with pytest.raises(DataError, match=r"row 2: cannot be read: ConnectionError: gone"):
        list(given_documents(broken()))


def _counted(texts: Any) -> tuple[Any, list[str]]:
    seen: list[str] = []

    def read():
        for text in texts:
            seen.append(text)
            yield text

    return read(), seen


def test_an_endless_generator_is_read_as_far_as_documents_are_needed(tiny):
    stories = [line for line in open_lines(tiny)]
    endless, seen = _counted(itertools.cycle(stories))
    run = saebench.judge(tiny.good, tiny.model, endless, sequences=6, order="file",
                         properties=["shrinkage"])  # fmt: skip
    assert run.datasets[0].sequences == 6
    assert seen == stories[:6]


def test_an_endless_generator_is_drawn_from_without_reading_more_than_its_buffer(tiny):
    endless, seen = _counted(itertools.cycle(open_lines(tiny)))
    run = saebench.judge(tiny.good, tiny.model, endless, sequences=6, properties=["shrinkage"])
    assert run.datasets[0].sequences == 6
    assert len(seen) == BUFFER + 6


def open_lines(tiny) -> list[str]:
    from saebench.data.documents import open_documents

    return list(open_documents(tiny.texts))


def test_an_endless_generator_of_short_texts_ends_with_an_error_that_says_so(tiny):
    endless, seen = _counted(itertools.repeat("w1"))
    with pytest.raises(DataError, match="200 were read, as many as are tried .100 for each"):
        saebench.judge(tiny.good, tiny.model, endless, sequences=2, properties=["shrinkage"])
    assert len(seen) == BUFFER + 200


@pytest.mark.parametrize("text", ["Once upon a time.", "line\nline", "x" * 5000, "a\0b"])
@pytest.mark.parametrize("where", ["data", "cloze"])
def test_a_single_text_is_refused_where_a_name_should_be(tiny, text: str, where: str):
    given = {"data": tiny.texts} | {where: text}
    with pytest.raises(DataError, match="characters|No such file"):
        saebench.judge(tiny.good, tiny.model, sequences=2, properties=["cloze"], **given)


def test_a_path_with_spaces_is_a_path(tiny, tmp_path: Path):
    path = tmp_path / "my own texts.jsonl"
    path.write_text(Path(tiny.texts).read_text())
    run = saebench.judge(tiny.good, tiny.model, path, sequences=2, properties=["shrinkage"])
    assert run.datasets[0].name == "my own texts.jsonl"
