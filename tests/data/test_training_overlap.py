"""How many judged sequences occur in training texts: against sets of grams, in plain Python."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saebench.data import training_overlap
from saebench.data.training_overlap import occurrence

LENGTH = 40


def _stories(count, length=LENGTH, *, seed=0):
    return np.random.default_rng(seed).integers(0, 500, (count, length))


def _shares(sequences, texts, gram=13):
    gram = min(gram, len(sequences[0]))
    known = {tuple(t[i : i + gram]) for t in texts for i in range(len(t) - gram + 1)}
    own = [[tuple(s[i : i + gram]) for i in range(len(s) - gram + 1)] for s in sequences]
    return [sum(g in known for g in grams) / len(grams) for grams in own]


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 30), st.integers(0, 40)), max_size=8),
    st.sampled_from([5, 12, 13, 30]),
)
def test_shares_are_those_of_sets_of_grams(cuts, length):
    sequences = _stories(5)[:, :length].tolist()
    texts = [[7, *_stories(5)[story][start:end].tolist()] for story, start, end in cuts]
    found = occurrence(np.array(sequences), texts)
    assert found.shares.tolist() == pytest.approx(_shares(sequences, texts))
    assert (found.tokens, found.complete) == (sum(map(len, texts)), True)


def test_a_sequence_occurs_if_more_than_half_of_it_does_wherever_it_lies():
    story, other = _stories(2).tolist()
    texts = [[1, 2, 3, *story, 4], [*other[:26], 9, 9, *other[26:]]]
    found = occurrence(np.array([story, other]), texts)
    assert found.shares.tolist() == pytest.approx([1.0, 16 / 28])
    assert found.found == 2
    assert occurrence(np.array([story, other]), [texts[0], [*other[:25], 9]]).found == 1


def test_blocks_of_any_size_give_the_same(monkeypatch):
    sequences, texts = _stories(6), [row.tolist() for row in _stories(60, 70, seed=5)]
    texts[50] = sequences[3].tolist()
    whole = occurrence(sequences, texts).shares
    monkeypatch.setattr(training_overlap, "AT_ONCE", 10)
    assert occurrence(sequences, texts).shares.tolist() == whole.tolist()
    assert whole.tolist() == [0, 0, 0, 1, 0, 0]


def test_no_document_beyond_the_limit_is_read_and_all_read_are_counted(monkeypatch):
    monkeypatch.setattr(training_overlap, "AT_ONCE", 10)
    sequences, advanced = _stories(2), []

    def endless():
        while True:
            yield _stories(1, 50, seed=3)[0].tolist()

    found = occurrence(sequences, endless(), limit=120, advance=advanced.append)
    assert (found.tokens, found.complete, advanced) == (150, False, [50, 50, 50])
