from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saebench.zoo import corpus
from saebench.zoo import storyteller as tokens

N_STORIES = 400


def lengths():
    return [tokens.count_tokens(corpus.document(0, index)) for index in range(N_STORIES)]


@given(seed=st.integers(0, 2**32), index=st.integers(0, 2**32))
def test_a_document_is_a_pure_function_of_seed_and_index(seed, index):
    assert corpus.document(seed, index) == corpus.document(seed, index)


def test_documents_yields_the_documents_in_order_from_start():
    expected = [corpus.document(3, index) for index in range(5, 9)]
    assert list(islice(corpus.documents(3, start=5), 4)) == expected


def test_splits_have_different_seeds_whatever_the_root_seed():
    seeds = [corpus.split_seed(s, seed=seed) for s in corpus.SPLITS for seed in range(10)]
    assert len(set(seeds)) == len(seeds)


def test_no_document_is_in_two_splits():
    texts = [
        corpus.document(corpus.split_seed(split), index)
        for split in corpus.SPLITS
        for index in range(200)
    ]
    assert len(set(texts)) == len(texts)


def test_an_unknown_split_is_an_error():
    with pytest.raises(ValueError, match="tests"):
        corpus.split_seed("tests")


def test_documents_have_20_to_400_tokens_and_half_have_more_than_256():
    found = lengths()
    assert min(found) >= 20
    assert max(found) <= 400
    assert 0.4 < sum(n > 256 for n in found) / N_STORIES < 0.7


def test_recalls_are_found_at_the_place_they_claim():
    story = corpus.story(0, 1)
    for recall in story.recalls:
        assert story.text.startswith(f"{recall.prefix} {recall.answer}.")
        assert tokens.count_tokens(recall.prefix) == recall.tokens_before


def test_recalls_reach_back_more_than_128_tokens():
    distances = [r.distance for i in range(N_STORIES) for r in corpus.story(0, i).recalls]
    assert sum(d > 64 for d in distances) > 0.2 * len(distances)
    assert sum(d > 128 for d in distances) > 0.01 * len(distances)


@given(st.integers(0, 2**32))
def test_every_recalled_word_was_told_before(index):
    for recall in corpus.story(0, index).recalls:
        assert recall.answer in tokens.words(recall.prefix)
