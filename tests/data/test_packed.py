"""Packed rows against rows that are filled token by token; overlap with judged sequences."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saebench.data.documents import Documents
from saebench.data.packed import RowSource, refuse_overlap, split_documents
from saebench.errors import DataError

BOS = 1
WORDS = st.lists(st.text("abc", max_size=9), max_size=12)
STORY = "the quick brown fox jumps over the lazy dog and sleeps"


class Letters:
    """A token a letter."""

    def __call__(self, text, **_):
        return {"input_ids": [ord(letter) for letter in text]}

    def decode(self, ids):
        return "".join(map(chr, ids))


def source(texts, *, context=4, bos: int | None = BOS, special=(), name="texts"):
    documents = Documents(name, None, None, lambda: iter(texts))
    return RowSource(documents, Letters(), context, bos, frozenset(special))


def filled(texts, context, bos):
    """Fill one row after the other, token by token."""
    start = [] if bos is None else [bos]
    rows, row = [], list(start)

    def put(token):
        row.append(token)
        if len(row) == context:
            rows.append(list(row))
            row[:] = start

    for text in texts:
        for token in [*(start if len(row) > len(start) else []), *map(ord, text)]:
            put(token)
    return rows


@given(WORDS, st.integers(2, 7), st.sampled_from([BOS, None]))
def test_rows_are_the_documents_joined_by_bos_and_cut(texts, context, bos):
    assert list(source(texts, context=context, bos=bos).once()) == filled(texts, context, bos)


def test_passes_follow_each_other_and_each_is_the_same():
    rows = source(["abcdef", "ghi"])
    once = list(rows.once())
    assert list(islice(rows.endless(), 2 * len(once) + 1)) == [*once, *once, once[0]]


@pytest.mark.parametrize("texts", [[], [""], ["ab"]])
def test_texts_without_a_row_are_refused_and_not_gone_through_for_ever(texts):
    with pytest.raises(DataError, match="texts: its texts give 0 tokens in rows of 4"):
        next(source(texts).endless())


def test_only_the_rows_between_are_given_in_every_pass():
    rows = source(["abcdefghijkl"])
    one, two, three, four = rows.once()
    assert list(rows.between(1, 3).once()) == [two, three]
    assert list(islice(rows.between(1, 3).endless(), 4)) == [two, three, two, three]
    assert list(rows.between(3, None).once()) == [four]
    assert list(rows.between(0, 1).once()) == [one]


def test_the_first_token_and_special_ones_do_not_count():
    rows = source([], special=(ord("b"),))
    assert rows.counted([ord("a"), ord("a"), ord("b"), ord("c")]) == 2


def test_a_survey_stops_where_there_is_enough():
    read = []

    def texts():
        for i in range(100):
            read.append(i)
            yield "abcdefghi"

    supply = source(texts()).survey(12, passes=1)
    assert (supply.rows, supply.tokens, supply.passes, supply.held) == (4, 12, 1.0, 0)
    assert len(read) < 4


def test_a_survey_says_how_often_short_texts_are_gone_through():
    supply = source(["abcdefghi"]).survey(20, passes=3)
    assert (supply.rows, supply.tokens) == (3, 9)
    assert supply.passes == pytest.approx(20 / 9)


@pytest.mark.parametrize(("tokens", "passes"), [(28, 3), (10, 1)])
def test_too_short_texts_are_refused_with_what_they_give(tokens, passes):
    with pytest.raises(DataError, match=rf"give 9 tokens in rows of 4.*but {tokens} were asked"):
        source(["abcdefghi"]).survey(tokens, passes=passes)


def test_a_survey_is_told_apart_by_its_rows():
    def printed(text, tokens=9):
        return source([text]).survey(tokens, passes=1).fingerprint

    assert printed("abcdefghi") == printed("abcdefghijkl") != printed("abcdefghj")
    assert printed("abcdefghijkl", 12) != printed("abcdefghijkl", 9)


@pytest.mark.parametrize(
    ("letters", "held", "expected"),
    [
        (300, 6, 2),  # two rows of three tokens are enough
        (300, 7, 3),
        (300, 1000, 10),  # a tenth of a hundred rows at most
        (15, 1000, 1),  # of few rows, one
        (3, 1000, 0),  # the only row is fitted on
        (300, 0, 0),
    ],
)
def test_rows_are_held_apart_a_tenth_at_most(letters, held, expected):
    supply = source(["x" * letters]).survey(1000, passes=1000, held=held)
    assert supply.held == expected
    assert supply.tokens == 3 * (supply.rows - expected)


def judged(text):
    return [BOS, *map(ord, text)]


def test_a_judged_sequence_in_the_middle_of_a_document_is_found_and_the_document_named():
    rows = source(["nothing", f"so, {STORY}. End."], name="train")
    with pytest.raises(DataError) as caught:
        refuse_overlap(rows, [judged("other"), judged(STORY)], judged="heldout", limit=1000)
    assert "train and heldout overlap" in str(caught.value)
    assert "document 1 (judged sequence 1: 'so, the quic…'" in str(caught.value)


def overlaps(texts, sequence):
    """Whether the texts are refused for this judged sequence."""
    try:
        refuse_overlap(source(texts), [sequence], judged="heldout", limit=1000)
    except DataError:
        return True
    return False


def test_a_document_that_only_begins_like_a_judged_sequence_is_no_overlap():
    assert not overlaps([STORY[:-1] + "!"], judged(STORY))
    assert overlaps([STORY[:-1] + "!"], judged(STORY[:-1]))


def test_a_sequence_that_reaches_over_two_documents_is_no_overlap():
    assert not overlaps([STORY[:30], STORY[30:]], judged(STORY))
    assert overlaps([STORY[:30], STORY[30:]], judged(STORY[30:]))


def test_without_bos_every_token_of_a_judged_sequence_is_looked_for():
    rows = source(["a" + STORY], bos=None)
    with pytest.raises(DataError):
        refuse_overlap(rows, [[ord(c) for c in "a" + STORY]], judged="heldout", limit=1000)
    refuse_overlap(rows, [[ord(c) for c in "b" + STORY]], judged="heldout", limit=1000)


@pytest.mark.parametrize(("limit", "is_looked_at"), [(10, False), (11, True)])
def test_documents_that_are_not_fitted_on_are_not_looked_at(limit, is_looked_at):
    rows = source(["ten letter", STORY])
    if is_looked_at:
        with pytest.raises(DataError):
            refuse_overlap(rows, [judged(STORY)], judged="heldout", limit=limit)
    else:
        refuse_overlap(rows, [judged(STORY)], judged="heldout", limit=limit)


def test_many_overlaps_are_counted_and_three_are_named():
    with pytest.raises(DataError, match=r"document 0 .*document 1 .*document 2 .* and 2 more"):
        refuse_overlap(source([STORY] * 5), [judged(STORY)], judged="heldout", limit=1000)


@given(st.lists(st.text()), st.integers(2, 5))
def test_split_documents_are_all_of_them_and_none_twice(texts, every):
    most, few = split_documents(Documents("d", None, None, lambda: iter(texts)), every=every)
    assert list(few) == texts[every - 1 :: every]
    assert sorted([*most, *few]) == sorted(texts)
