"""Documents come in file order from every kind of source, or an error names the location."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from saebench.data.documents import open_documents
from saebench.errors import DataError

TEXTS = ["one story", "ein Märchen", "the end"]


def _jsonl(path: Path, rows: list) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def _rows() -> list[dict]:
    return [{"text": text, "id": i} for i, text in enumerate(TEXTS)]


def test_jsonl_gives_the_text_of_each_line(tmp_path: Path):
    documents = open_documents(_jsonl(tmp_path / "a.jsonl", _rows()))
    assert list(documents) == TEXTS
    assert list(documents) == TEXTS  # and again, from the start
    assert (documents.name, documents.split) == ("a.jsonl", None)


def test_txt_gives_each_line_that_is_not_empty(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("\n" + "\n\n".join(TEXTS) + "\n", encoding="utf-8")
    assert list(open_documents(str(path))) == TEXTS


def test_parquet_gives_the_text_column(tmp_path: Path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": [1, 2, 3], "text": TEXTS}), path)
    assert list(open_documents(str(path))) == TEXTS


def test_a_saved_data_set_gives_its_rows(tmp_path: Path):
    import datasets

    datasets.Dataset.from_list(_rows()).save_to_disk(str(tmp_path / "saved"))
    assert list(open_documents(str(tmp_path / "saved"))) == TEXTS


def test_of_a_saved_dictionary_the_test_split_is_taken(tmp_path: Path):
    import datasets

    parts = {"train": datasets.Dataset.from_list([{"text": "no"}]),
             "test": datasets.Dataset.from_list(_rows())}  # fmt: skip
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    documents = open_documents(str(tmp_path / "saved"))
    assert (list(documents), documents.split) == (TEXTS, "test")


def test_a_missing_field_names_line_and_field(tmp_path: Path):
    spec = _jsonl(tmp_path / "a.jsonl", [{"text": "x"}, {"story": "y"}])
    with pytest.raises(DataError, match=r"a\.jsonl, line 2: .*'text'.*\['story'\]"):
        list(open_documents(spec))


def test_a_text_that_is_no_string_names_its_line(tmp_path: Path):
    spec = _jsonl(tmp_path / "a.jsonl", [{"text": 3}])
    with pytest.raises(DataError, match="line 1"):
        list(open_documents(spec))


def test_a_line_that_is_no_json_is_named(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"text": \n')
    with pytest.raises(DataError, match="line 2: not valid JSON"):
        list(open_documents(str(tmp_path / "a.jsonl")))


def test_a_parquet_file_without_the_column_names_what_it_has(tmp_path: Path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"story": TEXTS}), path)
    with pytest.raises(DataError, match=r"'text', found \['story'\]"):
        list(open_documents(str(path)))


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path):
    (tmp_path / "a.parquet").write_text("not parquet at all")
    with pytest.raises(DataError, match="no parquet file"):
        list(open_documents(str(tmp_path / "a.parquet")))


def test_an_empty_file_is_refused(tmp_path: Path):
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(DataError, match="is empty"):
        open_documents(str(tmp_path / "a.jsonl"))


def test_a_file_that_is_not_utf8_is_refused_by_name(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes("ein Märchen\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"a\.txt"):
        list(open_documents(str(tmp_path / "a.txt")))


def test_an_unknown_suffix_names_the_known_ones(tmp_path: Path):
    (tmp_path / "a.csv").write_text("text\nx\n")
    with pytest.raises(DataError, match=r"\.csv is not read; expected one of \.jsonl"):
        open_documents(str(tmp_path / "a.csv"))


@pytest.mark.parametrize("spec", ["./no/such", "/no/such", "gone.jsonl"])
def test_a_path_that_does_not_exist_is_not_looked_for_on_the_hub(spec: str):
    with pytest.raises(DataError, match="no such file"):
        open_documents(spec)


def test_a_directory_that_is_no_data_set_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="save_to_disk"):
        open_documents(str(tmp_path))


def test_offline_a_hub_name_that_is_not_cached_is_an_error_naming_it(monkeypatch):
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="'nobody/no-such-data' with split 'test'"):
        list(open_documents("nobody/no-such-data:test"))


def test_half_a_character_is_refused_with_its_line(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"text": "\\ud800 half"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl, line 2: half a character"):
        list(open_documents(str(tmp_path / "a.jsonl")))
