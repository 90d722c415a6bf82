"""Which sequences are of one document: against all pairs, gram by gram, in plain Python."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saebench.data.cloze_tokens import ClozePrompt, tokenise
from saebench.data.documents import Documents
from saebench.data.grams import GRAM, gram_hashes, gram_length
from saebench.data.near_copies import clusters_of
from saebench.data.tokens import take_sequences
from saebench.options import Packing

LENGTH = 64
ROWS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=12)


def _grams(row, length=GRAM):
    row = [int(token) for token in row]
    return {tuple(row[i : i + length]) for i in range(len(row) - length + 1)}


def _alike(one, two):
    """Whether two rows share a quarter of the smaller one's grams, and 20 or two thirds."""
    if list(one) == list(two):
        return True
    first, second = _grams(one), _grams(two)
    size = min(len(first), len(second))
    needed = max(math.ceil(0.25 * size), min(20, math.ceil(size * 2 / 3)))
    return size > 0 and len(first & second) >= needed


def _by_hand(rows):
    """Return each row's cluster: labels are lowered along pairs until none changes."""
    labels = list(range(len(rows)))
    pairs = [
        p for p in itertools.combinations(range(len(rows)), 2) if _alike(*(rows[i] for i in p))
    ]
    for _ in rows:
        for i, j in pairs:
            labels[i] = labels[j] = min(labels[i], labels[j])
    return labels


def _found(rows, **options):
    clusters = clusters_of(np.array(rows), **options)
    return list(range(len(rows))) if clusters is None else clusters.tolist()


def _stories(count, length=LENGTH, *, seed=0):
    return np.random.default_rng(seed).integers(0, 1000, (count, length))


@given(ROWS)
def test_sequences_shorter_than_a_gram_are_of_one_document_only_if_they_are_equal(rows):
    assert _found(rows) == [rows.index(row) for row in rows]
    assert (clusters_of(np.array(rows)) is None) == (len(set(rows)) == len(rows))


@given(ROWS, st.integers(1, 12))
def test_later_sequences_that_are_equal_change_no_earlier_cluster(rows, first):
    assert _found(rows)[:first] == _found(rows[:first])


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60), st.integers(0, 50)), max_size=14),
    st.integers(14, 48),
)
def test_windows_and_edited_copies_are_clustered_as_all_pairs_by_hand_say(cuts, length):
    texts = _stories(4, 120)
    rows = [texts[0][:length], *(texts[text][start : start + length] for text, start, _ in cuts)]
    rows = np.array(rows)
    for row, (_, _, edited) in zip(rows[1:], cuts, strict=True):
        row[edited % length] = 5000
    assert _found(rows) == _by_hand(rows)


def test_four_stories_sixteen_times_are_four_documents():
    rows = np.tile(_stories(4), (16, 1))
    assert _found(rows) == [0, 1, 2, 3] * 16


def test_copies_with_another_first_word_are_one_document():
    rows = np.tile(_stories(4), (16, 1))
    rows[:, 0] = np.arange(64) + 2000
    assert _found(rows) == [0, 1, 2, 3] * 16


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_a_chain_of_sliding_windows_is_one_document_in_any_order(stride):
    """The first and the last window share nothing; only the chain connects them."""
    text = _stories(1, 1000)[0]
    rows = np.array([text[i : i + LENGTH] for i in range(0, 900, stride)])
    order = np.random.default_rng(1).permutation(len(rows))
    assert not _grams(rows[0]) & _grams(rows[-1])
    assert set(_found(rows[order])) == {0}


def test_random_texts_with_one_opening_stay_apart():
    """Nine of 52 grams, 21 tokens, are those of all the others too."""
    rows = _stories(200)
    rows[:, :21] = rows[0, :21]
    assert clusters_of(rows) is None


def test_a_phrase_of_very_many_sequences_neither_joins_them_nor_takes_pairs_of_all():
    rows = _stories(6000)
    rows[:, 20:45] = rows[0, 20:45]
    rows[5999] = rows[17]
    rows[5999, 0] = 1
    assert sorted(set(range(6000)) - set(_found(rows))) == [5999]


def test_more_near_copies_of_several_stories_than_are_compared_with_each_other_are_found():
    rows = np.repeat(_stories(3), 40, axis=0)
    order = np.random.default_rng(2).permutation(120)
    rows[np.arange(120), np.arange(120) % LENGTH] = 4000 + np.arange(120)
    assert _found(rows[order]) == _by_hand(rows[order])
    assert len(set(_found(rows[order]))) == 3


def test_padding_is_no_text():
    rows = np.tile(np.arange(60), (2, 1))
    rows[0, :20], rows[1, :20] = _stories(2, 20)
    assert _found(rows, lengths=np.array([20, 20])) == [0, 1]
    assert _found(rows) == [0, 0]


def test_a_gram_of_a_character_model_is_two_words_or_more():
    assert (gram_length(4000, 1000), gram_length(2400, 1000), gram_length(900, 900)) == (13, 13, 30)
    assert gram_length(0, 0) == GRAM


def test_hashes_are_equal_where_grams_are():
    ids = np.random.default_rng(0).integers(0, 2, (20, 30))
    grams = [tuple(row[i : i + 5]) for row in ids.tolist() for i in range(26)]
    hashes = gram_hashes(ids, length=5).reshape(-1)
    assert len(set(hashes.tolist())) == len(set(grams))
    assert len(set(zip(grams, hashes.tolist(), strict=True))) == len(set(grams))


class _Letters:
    """A tokenizer with a token for each character."""

    bos_token_id = 0

    def __call__(self, text, **_):
        return {"input_ids": [ord(letter) for letter in text]}


def _packed(texts, context):
    documents = Documents("d", None, None, lambda: iter(texts))
    return take_sequences(
        documents, _Letters(), sequences=100, context=context, prepend_bos=True,
        special_ids=frozenset({0}), packing=Packing.PACKED,
    )  # fmt: skip


def test_packed_sequences_belong_to_the_document_that_gives_most_of_their_tokens():
    texts = ["a" * 24, "b" * 6, "c" * 21, "d" * 27]
    tokens = _packed(texts, 10)
    most = [max("abcd", key=[chr(i) for i in row].count) for row in tokens.ids.tolist()]
    assert most == ["a", "a", "a", "c", "c", "d", "d", "d"]
    assert tokens.clusters.tolist() == [most.index(letter) for letter in most]
    assert tokens.independent == 3
    record = tokens.record(Documents("d", None, None, lambda: iter(texts)), score_bos=False)
    assert record.independent == 3


def test_packed_sequences_of_one_document_each_stay_apart():
    tokens = _packed(["".join(chr(40 + (i * j) % 83) for j in range(15)) for i in (1, 2, 3)], 16)
    assert tokens.clusters is None
    assert tokens.independent == 3


def test_cloze_prompts_of_one_passage_are_one_document():
    passage = "".join(chr(40 + 7 * i % 83) for i in range(120))
    others = [
        ClozePrompt("".join(chr(60 + i * i * k % 61) for i in range(90)), "x") for k in (1, 2)
    ]
    prompts = [ClozePrompt(passage[i : i + 80], "x") for i in (0, 20, 40)]
    tokens = tokenise([*prompts, *others], _Letters(), context=200, prepend_bos=True,
                      special_ids=frozenset({0}))  # fmt: skip
    assert tokens.clusters.tolist() == [0, 0, 0, 3, 4]
    assert tokens.independent == 3


def test_real_stories_are_independent_though_many_open_alike(real_data):
    """Of 1,000 TinyStories a handful share so much that they count as one."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(real_data.model)
    files = [real_data.root / "text" / f"tinystories-{name}.jsonl" for name in ("train", "heldout")]
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    texts = [json.loads(line)["text"] for line in lines]
    ids = [tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in texts]
    for context, least in ((64, 990), (128, 995), (256, 970)):
        rows = [row[:context] for row in ids if len(row) >= context]
        assert len(set(_found(rows))) >= least
    halves = [row[start : start + 128] for row in ids[:50] for start in (0, 64)]
    halves = [row for row in halves if len(row) == 128]
    clusters = _found(halves)
    assert len(set(clusters)) <= 50 < len(halves)
