"""Rows without a text are counted and skipped; values that are no text are errors."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_cache import lay_out

import saebench
from saebench.data.documents import Documents, described, open_documents
from saebench.data.prompts import open_prompts
from saebench.data.tokens import WithoutText, take_sequences
from saebench.errors import DataError

ROWS = [{"text": "abcd"}, {"text": None}, {"text": "efgh"}, {"text": None}, {"text": " "}]


def _jsonl(root: Path) -> str:
    path = root / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


def _parquet(root: Path) -> str:
    pq.write_table(pa.Table.from_pylist(ROWS), root / "a.parquet")
    return str(root / "a.parquet")


def _saved(root: Path) -> str:
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(str(root / "saved"))
    return str(root / "saved")


class _Letters:
    """A token a letter."""

    bos_token_id = None

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(c) for c in text]}


def _taken(documents: Documents, context: int = 4):
    return take_sequences(
        documents, _Letters(), sequences=9, context=context, prepend_bos=False,
        special_ids=frozenset(),
    )  # fmt: skip


@pytest.mark.parametrize("kind", [_jsonl, _parquet, _saved])
def test_documents_without_a_text_are_counted_and_skipped(tmp_path: Path, kind):
    documents = open_documents(kind(tmp_path))
    found = _taken(documents)
    assert found.ids.tolist() == [[ord(c) for c in text] for text in ("abcd", "efgh")]
    assert found.without_text == WithoutText(null=2, empty=1)
    assert (found.documents_read, found.documents_skipped) == (5, 3)
    assert list(documents) == ["abcd", "efgh", " "]


def test_those_of_a_data_set_by_name_too(offline: Path):
    lay_out(offline, "lab/nulls", {"train": ROWS}, config="default")
    assert _taken(open_documents("lab/nulls")).without_text == WithoutText(null=2, empty=1)


def test_where_all_texts_are_too_short_the_error_counts_those_that_are_none(tmp_path: Path):
    with pytest.raises(DataError, match=r"5 were read \(found: 2 null texts, 1 empty text\)"):
        _taken(open_documents(_jsonl(tmp_path)), context=5)


def test_a_run_notes_how_many_there_were(tiny, tmp_path: Path):
    lines = Path(tiny.texts).read_text().splitlines(keepends=True)
    (tmp_path / "a.jsonl").write_text('{"text": null}\n' * 3 + "".join(lines))
    run, whole = (
        saebench.judge(tiny.good, tiny.model, texts, sequences=4, order="file",
                       properties=["shrinkage"])
        for texts in (tmp_path / "a.jsonl", tiny.texts)
    )  # fmt: skip
    assert "3 null texts among the 7 documents of a.jsonl that were read" in str(run.saes[0].notes)
    assert run.datasets[0].fingerprint == whole.datasets[0].fingerprint


@pytest.mark.parametrize(
    ("value", "said"),
    [(3, r"a number \(3\)"), (["a"], r"a list \(\['a'\]\)"), ({"a": 1}, "an object"),
     (True, r"true or false \(True\)"), (1.5, r"a number \(1.5\)")],
)  # fmt: skip
def test_what_is_no_text_is_named_with_its_line_and_kind(tmp_path: Path, value: Any, said: str):
    (tmp_path / "a.jsonl").write_text(f'{{"text": "fine"}}\n{json.dumps({"text": value})}\n')
    with pytest.raises(DataError, match=rf"line 2: expected a string under 'text', found {said}"):
        list(open_documents(str(tmp_path / "a.jsonl")))


def test_a_column_of_another_kind_is_named_with_its_row(tmp_path: Path):
    pq.write_table(pa.table({"text": [["a", "b"]]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"row 1: expected a string under 'text', found a list"):
        list(open_documents(str(tmp_path / "a.parquet")))


def test_a_prompt_that_is_null_is_said_to_be(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"text": null}\n')
    with pytest.raises(DataError, match=r"line 1: .*found null under 'text'"):
        list(open_prompts(str(tmp_path / "a.jsonl")))


def test_long_values_are_cut_in_messages():
    assert described("x" * 99) == f"a string ('{'x' * 39}…)"
