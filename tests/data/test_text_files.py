"""Text files: byte order marks are dropped, and errors name another encoding."""

import codecs
import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saebench.data.cloze_tokens import ClozePrompt
from saebench.data.documents import open_documents
from saebench.data.prompts import open_prompts
from saebench.data.rows import encoding_of
from saebench.errors import DataError

TEXTS = ["ein Märchen of old", "the end of it"]
ROWS = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
LINES = {".txt": "\n".join(TEXTS), ".jsonl": ROWS}


@pytest.mark.parametrize("suffix", LINES)
def test_a_byte_order_mark_is_no_part_of_the_first_document(tmp_path: Path, suffix: str):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(codecs.BOM_UTF8 + LINES[suffix].encode())
    assert list(open_documents(str(path))) == TEXTS


@pytest.mark.parametrize("suffix", LINES)
def test_nor_of_a_later_one_where_files_were_joined(tmp_path: Path, suffix: str):
    path = tmp_path / f"a{suffix}"
    each = codecs.BOM_UTF8 + LINES[suffix].encode() + b"\n"
    path.write_bytes(each + each)
    assert list(open_documents(str(path))) == TEXTS * 2


def test_a_mark_within_a_row_is_no_part_of_its_text(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "\ufeff" + TEXTS[0]}))
    assert list(open_documents(str(tmp_path / "a.jsonl"))) == TEXTS[:1]


def test_a_mark_is_no_part_of_the_first_prompt(tmp_path: Path):
    row = json.dumps({"prompt": "\ufeffAnn saw", "answer": "Bob"})
    (tmp_path / "a.jsonl").write_bytes(codecs.BOM_UTF8 + row.encode())
    assert list(open_prompts(str(tmp_path / "a.jsonl"))) == [ClozePrompt("Ann saw", "Bob")]


@pytest.mark.parametrize("opened", [open_documents, open_prompts])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-16-le", "utf-32", "utf-32-be"])
def test_another_encoding_is_named_with_the_command_that_converts_it(tmp_path, opened, encoding):
    (tmp_path / "a.jsonl").write_bytes(ROWS.encode(encoding))
    name = encoding.upper().replace("-BE", "BE").replace("-LE", "LE")
    with pytest.raises(DataError, match=rf"a\.jsonl.* found {name}; .*iconv -f {name} -t UTF-8"):
        list(opened(str(tmp_path / "a.jsonl")))


def test_bytes_that_are_no_utf8_are_named_with_their_line(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(b"fine\n" + "M\u00e4rchen\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"a\.txt.*0xe4.*iconv -f WINDOWS-1252"):
        list(open_documents(str(tmp_path / "a.txt")))


def test_a_packed_file_is_named_as_such(tmp_path: Path):
    (tmp_path / "a.jsonl").write_bytes(gzip.compress(ROWS.encode()))
    with pytest.raises(DataError, match="found gzip; unpack it first"):
        list(open_documents(str(tmp_path / "a.jsonl")))


@pytest.mark.parametrize("start", ["BZhang said", "PAR1 is a word", "PKs"])
def test_a_text_that_begins_as_packed_files_do_is_a_text(tmp_path: Path, start: str):
    (tmp_path / "a.txt").write_text(start)
    assert list(open_documents(str(tmp_path / "a.txt"))) == [start]


@given(st.text(min_size=1))
def test_no_text_in_utf8_is_taken_for_another_encoding(text: str):
    if text.count("\0") < len(text.encode()) / 5:
        assert encoding_of(text.encode()) is None
