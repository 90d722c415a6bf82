"""A few of many, spread over their quantiles."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from saebench.statistics.rank import spread_over

QUANTILES = (0.0, 0.25, 0.5, 0.9, 1.0)


@given(st.lists(st.tuples(st.floats(-5, 5), st.booleans()), max_size=40))
def test_what_is_shown_are_order_statistics_of_what_may_be(rows):
    values, among = np.array([v for v, _ in rows]), np.array([b for _, b in rows], dtype=bool)
    found = spread_over(values, among, quantiles=QUANTILES)
    assert len(found) == len(set(found)) == min(len(found), len(QUANTILES))
    assert all(among[i] for i in found)
    shown = [values[i] for i in found]
    assert shown == sorted(shown)
    if among.any():
        assert (shown[0], shown[-1]) == (values[among].min(), values[among].max())


@given(st.integers(5, 200))
def test_quantiles_of_many_are_numpys_nearest(n):
    values = np.random.default_rng(n).permutation(n).astype(float)
    found = [values[i] for i in spread_over(values, values >= 0, quantiles=QUANTILES)]
    expected = np.quantile(values, QUANTILES, method="linear")
    assert np.abs(np.unique(expected.round()) - np.array(found)).max() <= 1
