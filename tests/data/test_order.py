"""Documents drawn by seed: each once, nested, alike for every kind of source, with true lines."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_cache import lay_out
from hypothesis import given
from hypothesis import strategies as st

from saebench.data import order as order_module
from saebench.data.documents import Documents, open_documents
from saebench.data.given import given_documents
from saebench.data.packed import split_documents
from saebench.data.prompts import open_prompts
from saebench.data.random_access import ParquetRows, TextLines
from saebench.data.rows import text_lines
from saebench.data.tokens import take_sequences
from saebench.errors import DataError
from saebench.options import Order, Packing

TEXTS = [f"story {i}" for i in range(2500)]  # more than one block, more than one batch


def _jsonl(root: Path, texts: list[str]) -> Documents:
    (root / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    return open_documents(str(root / "a.jsonl"))


def _txt(root: Path, texts: list[str]) -> Documents:
    (root / "a.txt").write_text("\n\n".join(texts))
    return open_documents(str(root / "a.txt"))


def _parquet(root: Path, texts: list[str]) -> Documents:
    pq.write_table(pa.table({"n": range(len(texts)), "text": texts}), root / "a.parquet",
                   row_group_size=700)  # fmt: skip
    return open_documents(str(root / "a.parquet"))


def _saved(root: Path, texts: list[str]) -> Documents:
    datasets.Dataset.from_dict({"text": texts}).save_to_disk(str(root / "saved"))
    return open_documents(str(root / "saved"))


def _list(_: Path, texts: list[str]) -> Documents:
    return given_documents(texts)


def _frame(_: Path, texts: list[str]) -> Documents:
    return given_documents(pd.DataFrame({"text": texts}, index=range(7, 7 + len(texts))))


def _arrow(_: Path, texts: list[str]) -> Documents:
    return given_documents(pa.table({"text": pa.chunked_array([texts[:9], texts[9:]])}))


def _short_generator(_: Path, texts: list[str]) -> Documents:
    return given_documents(text for text in texts)


KINDS = [_jsonl, _txt, _parquet, _saved, _list, _frame, _arrow, _short_generator]
Kind = Callable[[Path, list[str]], Documents]


def _drawn(documents: Documents, seed: int = 0) -> list[str]:
    return list(documents.in_order(Order.SEEDED, seed=seed))


def _expected(texts: list[str], seed: int = 0) -> list[str]:
    generator = np.random.Generator(np.random.PCG64([seed, 0x0D0C]))
    return [texts[i] for i in generator.permutation(len(texts))]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_source_gives_each_document_once_in_the_same_drawn_order(
    tmp_path: Path, kind: Kind
):
    drawn = _drawn(kind(tmp_path, TEXTS))
    assert sorted(drawn) == sorted(TEXTS)
    assert drawn == _expected(TEXTS)


@pytest.mark.parametrize("kind", KINDS)
def test_each_document_knows_its_place_and_can_be_read_again(tmp_path: Path, kind: Kind):
    documents = kind(tmp_path, TEXTS).in_order(Order.SEEDED, seed=3)
    places = dict(documents.with_places())
    assert [places[i] for i in range(len(TEXTS))] == TEXTS
    assert list(documents) == list(documents) == [TEXTS[i] for i in places]


def test_another_seed_draws_another_order_and_file_leaves_the_files(tmp_path: Path):
    documents = _jsonl(tmp_path, TEXTS)
    assert _drawn(documents, 0) != _drawn(documents, 1)
    assert _drawn(documents, 1) == _drawn(documents, 1)
    assert list(documents.in_order(Order.FILE, seed=1)) == TEXTS


def test_an_order_that_was_chosen_stays():
    chosen = given_documents(TEXTS).in_order(Order.FILE, seed=0)
    assert list(chosen.in_order(Order.SEEDED, seed=1)) == TEXTS


def test_the_order_is_said_in_words(tmp_path: Path):
    file, stream = _jsonl(tmp_path, TEXTS), given_documents(iter(TEXTS))
    said = [d.in_order(o, seed=5).order for d in (file, stream) for o in Order]
    assert said == [
        "drawn by seed 5 from all documents", "in the file's order",
        "drawn by seed 5 through a buffer of 10,000 documents", "in the file's order",
    ]  # fmt: skip


class _Words:
    bos_token_id = 0

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [int(word) + 1 for word in text.split() if word.isdecimal()]}


def _tokens(documents: Documents, sequences: int, **options: Any):
    return take_sequences(
        documents.in_order(Order.SEEDED, seed=0), _Words(), sequences=sequences, context=2,
        prepend_bos=True, special_ids=frozenset({0}), **options,
    )  # fmt: skip


@pytest.mark.parametrize("packing", list(Packing))
@pytest.mark.parametrize("kind", [_jsonl, _short_generator])
def test_a_smaller_runs_sequences_are_the_first_of_a_larger_runs(tmp_path: Path, kind, packing):
    few, many = (_tokens(kind(tmp_path, TEXTS), n, packing=packing) for n in (30, 1200))
    assert few.ids.tolist() == many.ids[:30].tolist()
    assert few.places is not None
    assert many.places is not None
    assert few.places.tolist() == many.places[:30].tolist()
    part = many.part(slice(4, 9)).places
    assert part is not None
    assert part.tolist() == many.places[4:9].tolist()


def test_a_sequence_has_the_place_of_its_document(tmp_path: Path):
    found = _tokens(_jsonl(tmp_path, ["short", *TEXTS]), 100)
    assert found.places is not None
    assert (found.ids[:, 1] - 1).tolist() == (found.places - 1).tolist()


def test_a_packed_sequence_has_the_place_of_its_first_document():
    documents = given_documents(["1 2", "3", "4 5 6"]).in_order(Order.FILE, seed=0)
    found = take_sequences(documents, _Words(), sequences=9, context=3, prepend_bos=True,
                           special_ids=frozenset({0}), packing=Packing.PACKED)  # fmt: skip
    assert found.ids.tolist() == [[0, 2, 3], [0, 4, 0], [5, 6, 7]]
    assert found.places is not None
    assert found.places.tolist() == [0, 1, 2]


def test_a_stream_is_drawn_from_its_next_documents_and_every_document_comes_once(monkeypatch):
    monkeypatch.setattr(order_module, "BUFFER", 50)
    read: list[str] = []

    def stream():
        for text in TEXTS:
            read.append(text)
            yield text

    documents = given_documents(stream()).in_order(Order.SEEDED, seed=0)
    taken = documents.with_places()
    for number, (place, text) in enumerate(taken, start=1):
        assert text == TEXTS[place]
        assert place < number + 50
        assert len(read) == min(number + 50, len(TEXTS))
    assert sorted(place for place, _ in documents.with_places()) == list(range(len(TEXTS)))
    assert "buffer of 50 documents" in str(documents.order)


def test_a_buffer_draws_evenly(monkeypatch):
    monkeypatch.setattr(order_module, "BUFFER", 40)
    firsts = [_place_of_first(seed) for seed in range(800)]
    counts = np.bincount(firsts, minlength=40)
    assert len(counts) == 40
    # χ² with 39 degrees of freedom: its 99.9% quantile is 72.
    assert ((counts - 20) ** 2 / 20).sum() < 72


def _place_of_first(seed: int) -> int:
    documents = given_documents(iter(TEXTS[:200])).in_order(Order.SEEDED, seed=seed)
    return next(place for place, _ in documents.with_places())


def test_a_data_set_by_name_is_drawn_through_a_buffer(offline: Path):
    rows = [{"text": text} for text in TEXTS[:300]]
    lay_out(offline, "lab/many", {"train": rows}, config="default")
    documents = open_documents("lab/many").in_order(Order.SEEDED, seed=2)
    assert sorted(documents) == sorted(TEXTS[:300])
    assert list(documents) != TEXTS[:300]
    assert documents.order == "drawn by seed 2 through a buffer of 10,000 documents"


def test_the_shards_of_a_stream_come_in_a_drawn_order(monkeypatch):
    monkeypatch.setattr(order_module, "BUFFER", 1)  # nothing but the shards is drawn
    shards = datasets.Dataset.from_dict({"text": TEXTS[:60]}).to_iterable_dataset(num_shards=6)
    orders = {seed: _drawn(given_documents(shards), seed) for seed in range(4)}
    pieces = {tuple(TEXTS[i : i + 10]) for i in range(0, 60, 10)}
    for drawn in orders.values():
        assert {tuple(drawn[i : i + 10]) for i in range(0, 60, 10)} == pieces
    assert len({tuple(drawn) for drawn in orders.values()}) > 1


ODD = ["a", 3, "b", "c"]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (lambda root: _jsonl(root, ODD), r"a.jsonl, line 2: .*found a number \(3\)"),  # pyright: ignore
        (lambda _: given_documents(ODD), r"data, row 2: .*found a number \(3\)"),
        (lambda _: given_documents(iter(ODD)), r"data, row 2: .*found a number \(3\)"),
        (lambda _: given_documents(pd.DataFrame({"text": ODD})), "data, row 2: .*a number"),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_what_is_wrong_is_named_with_its_place_in_the_file(tmp_path: Path, kind, said, seed):
    with pytest.raises(DataError, match=said):
        _drawn(kind(tmp_path), seed)


def test_lines_that_are_no_text_or_no_json_are_named_with_their_numbers(tmp_path: Path):
    good = b'{"text": "a"}\n'
    (tmp_path / "a.jsonl").write_bytes(good * 3 + b"\n" + good + b"{\n" + good)
    with pytest.raises(DataError, match="line 6: not valid JSON"):
        _drawn(open_documents(str(tmp_path / "a.jsonl")))
    (tmp_path / "b.txt").write_bytes(b"one\n\ncaf\xe9\ntwo\n")
    with pytest.raises(DataError, match="b.txt, line 3: expected UTF-8 text.*0xe9.*iconv"):
        _drawn(open_documents(str(tmp_path / "b.txt")))
    (tmp_path / "c.txt").write_bytes("text\n".encode("utf-16"))
    with pytest.raises(DataError, match="found UTF-16"):
        _drawn(open_documents(str(tmp_path / "c.txt")))


PIECES = ["a", "é", " ", "\n", "\r", "\r\n", "\ufeff", "\u00a0", "\u2028", "\x1c", "\t", "\x85"]


@given(st.lists(st.sampled_from(PIECES), max_size=30))
def test_lines_are_found_where_reading_from_the_start_finds_them(tmp_path_factory, pieces):
    path = tmp_path_factory.mktemp("lines") / "a.txt"
    path.write_bytes("".join(pieces).encode())
    read = [(n, line.strip()) for n, line in text_lines(path, option="o") if line.strip()]
    lines = TextLines(path, option="o")
    assert [(n, line.strip()) for n, line in lines.at(range(len(lines)))] == read


def test_rows_of_a_parquet_file_are_found_in_any_order_and_more_than_once(tmp_path: Path):
    _parquet(tmp_path, TEXTS)
    rows = ParquetRows(tmp_path / "a.parquet", ("text",))
    places = [2499, 0, 700, 699, 0, 1400]
    assert len(rows) == 2500
    assert [(where.rpartition(" ")[2], row) for where, row in rows.at(places)] == [
        (str(place + 1), {"text": TEXTS[place]}) for place in places
    ]


@pytest.mark.parametrize("kind", [_jsonl, _parquet, _list])
def test_held_out_documents_stay_apart_whatever_the_order(tmp_path: Path, kind: Kind):
    most, few = split_documents(kind(tmp_path, TEXTS), every=8)
    assert set(_drawn(few)) == set(TEXTS[7::8])
    assert set(_drawn(most)).isdisjoint(_drawn(few))


def _prompt_file(root: Path) -> Path:
    path = root / "p.jsonl"
    path.write_text("".join(json.dumps({"text": f"word number {i}"}) + "\n" for i in range(60)))
    return path


def test_prompts_are_drawn_in_the_same_nested_way(tmp_path: Path):
    source = open_prompts(str(_prompt_file(tmp_path)))
    few, many, first = (
        source.taken(count, order, seed=4)
        for count, order in ((5, Order.SEEDED), (99, Order.SEEDED), (5, Order.FILE))
    )
    assert list(few) == list(many)[:5]
    assert sorted(int(each.answer) for each in many) == list(range(60))
    assert [int(each.answer) for each in few] == list(few.places or ())
    assert [int(each.answer) for each in first] == list(range(5))
    assert (few.order, first.order) == ("drawn by seed 4 from all prompts", "in the file's order")
