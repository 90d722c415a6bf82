"""Sequences and masks, as docs/metrics.md defines them, with a tokenizer of letters."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saebench.data.documents import Documents
from saebench.data.tokens import TokenSet, take_sequences, token_text
from saebench.errors import DataError
from saebench.options import Packing

BOS, EOS = 0, 1


class _Letters:
    """A token a letter; ids from 2 on; '$' is EOS."""

    bos_token_id: int | None = BOS

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [EOS if c == "$" else ord(c) for c in text]}


def _take(texts: list[str], **options: Any) -> TokenSet:
    given: dict[str, Any] = {
        "sequences": 9, "context": 4, "prepend_bos": True, "special_ids": frozenset({BOS, EOS}),
    }  # fmt: skip
    documents = Documents("memory", None, None, lambda: iter(texts))
    return take_sequences(documents, _Letters(), **(given | options))


def _ids(text: str) -> list[int]:
    return [ord(c) for c in text]


def test_a_document_gives_its_first_tokens_with_bos_first():
    found = _take(["abcdef", "ghijk"])
    assert found.ids.tolist() == [[BOS, *_ids("abc")], [BOS, *_ids("ghi")]]


def test_short_documents_are_skipped_and_counted():
    found = _take(["ab", "abc", "", "defg"])
    assert found.ids.tolist() == [[BOS, *_ids("abc")], [BOS, *_ids("def")]]
    assert (found.documents_read, found.documents_skipped) == (4, 2)


def test_no_more_documents_are_read_than_needed():
    found = _take(["abcd"] * 50, sequences=3)
    assert (len(found.ids), found.documents_read) == (3, 3)


@pytest.mark.parametrize("bos", [BOS, None])
def test_without_bos_the_first_token_is_the_texts(bos, monkeypatch):
    monkeypatch.setattr(_Letters, "bos_token_id", bos)
    found = _take(["abcdef"], prepend_bos=bos is None)
    assert found.ids.tolist() == [_ids("abcd")]


def test_none_long_enough_says_how_many_were_read_and_the_longest():
    with pytest.raises(DataError, match="has 9 tokens; 3 were read, the longest has 5"):
        _take(["ab", "abcd", "a"], context=9)


def test_position_0_and_special_ids_do_not_count():
    found = _take(["a$cd"], context=5)
    assert found.counted.tolist() == [[False, True, False, True, True]]
    assert found.has_target.tolist() == [[False, True, False, True, False]]


def test_position_0_does_not_count_even_where_it_is_no_special_token():
    found = _take(["abcd"], prepend_bos=False)
    assert found.counted.tolist() == [[False, True, True, True]]


def test_texts_of_special_tokens_alone_are_refused():
    with pytest.raises(DataError, match="all tokens of its 2 sequences are special"):
        _take(["$$$$", "$$$"])


def test_score_bos_counts_everything_but_the_last_has_no_target():
    found = _take(["a$cd"], context=5, score_bos=True)
    assert found.counted.all()
    assert found.has_target.tolist() == [[True] * 4 + [False]]


def test_packed_joins_documents_by_bos_and_cuts():
    found = _take(["abcde", "f", "ghi"], packing=Packing.PACKED)
    stream = [BOS, *_ids("abcde"), BOS, *_ids("f"), BOS, *_ids("ghi")]
    assert found.ids.flatten().tolist() == stream[: len(stream) // 4 * 4]
    assert not found.counted[found.ids == BOS].any()
    assert found.packing is Packing.PACKED


def test_packing_too_little_text_is_an_error():
    with pytest.raises(DataError, match="100"):
        _take(["abc"], context=100, packing=Packing.PACKED)


@given(st.lists(st.text("abc$", max_size=7), min_size=1, max_size=12), st.integers(2, 5))
def test_documents_mode_is_its_definition(texts, context):
    tokenised = [[BOS, *_Letters()(text)["input_ids"]] for text in texts]
    expected = [ids[:context] for ids in tokenised if len(ids) >= context]
    if all(i in (BOS, EOS) for ids in expected for i in ids[1:]):  # nothing to score
        with pytest.raises(DataError):
            _take(texts, context=context, sequences=99)
        return
    found = _take(texts, context=context, sequences=99)
    assert found.ids.tolist() == expected
    for s, t in torch.ones_like(found.ids).nonzero().tolist():
        counts = t > 0 and found.ids[s, t] not in (BOS, EOS)
        assert bool(found.counted[s, t]) == counts
        assert bool(found.has_target[s, t]) == (counts and t + 1 < context)


def test_the_fingerprint_changes_with_ids_masks_and_shape_alone():
    one, same = _take(["abcd", "efgh"]), _take(["ab", "abcd", "efgh"])
    assert one.fingerprint == same.fingerprint
    others = [
        _take(["abcd", "efgx"][::-1]),
        _take(["abxd", "efgh"]),
        _take(["abcd", "efgh"], score_bos=True),
        _take(["abcd", "efgh"], context=3),
        _take(["abcd"]),
    ]
    assert one.fingerprint not in {other.fingerprint for other in others}


def test_the_record_says_which_tokens_count():
    documents = Documents("memory", "test", None, lambda: iter([]))
    found = _take(["abcd", "a"])
    record = found.record(documents, score_bos=False, special_ids=found.ids[:, 0].tolist())
    assert (record.sequences, record.context, record.documents_skipped) == (1, 4, 1)
    assert set(record.policies) == {"substituted", "scored", "statistics", "position 0"}
    assert record.policies["position 0"] == "a special token"
    other = found.record(documents, score_bos=False, special_ids=[99])
    assert other.policies["position 0"] == "a token of the text"
    assert record.fingerprint == found.fingerprint


class _Pieces:
    """Three tokens: a word, the first byte of a character, and a letter."""

    names = ("▁word", "<0xE2>", "s")

    def decode(self, ids: list[int], **_: Any) -> str:
        text = "".join((" word", "\ufffd", "s")[i] for i in ids)
        return text.removeprefix(" ")

    def convert_ids_to_tokens(self, token: int) -> str:
        return self.names[token]


@pytest.mark.parametrize(("token", "text"), [(0, " word"), (1, "<0xE2>"), (2, "s")])
def test_a_token_is_shown_as_in_a_text_or_else_by_its_name(token, text):
    assert token_text(_Pieces(), token) == text


def test_a_real_tokenizers_tokens_are_readable(tiny):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny.model)
    assert token_text(tokenizer, 5).strip() == "w2"
