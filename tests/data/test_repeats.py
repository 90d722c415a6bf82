"""Which sequences repeat each other."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from saebench.data.tokens import repeats

ROWS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=12)


@given(ROWS)
def test_each_belongs_to_the_first_with_the_same_tokens(rows):
    found = repeats(torch.tensor(rows))
    expected = [rows.index(row) for row in rows]
    assert (list(range(len(rows))) if found is None else found.tolist()) == expected
    assert (found is None) == (len(set(rows)) == len(rows))


@given(ROWS, st.integers(1, 12))
def test_the_clusters_of_the_first_are_the_first_clusters(rows, first):
    whole, part = (repeats(torch.tensor(some)) for some in (rows, rows[:first]))
    if part is not None:
        assert whole is not None
        assert np.array_equal(whole[:first], part)
