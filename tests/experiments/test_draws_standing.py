"""z and percentile of a value among draws, against scipy row by row."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import percentileofscore, zmap

from saebench.experiments.draws import standing

finite = st.floats(0, 10)


@given(values=arrays(float, 4, elements=finite), draws=arrays(float, (4, 7), elements=finite))
def test_z_and_percentile_are_scipys(values, draws):
    found = standing(values, draws, resolution=1e-3)
    for i in np.flatnonzero(found.defined):
        z = zmap(values[i], draws[i], ddof=1)
        assert found.z[i] == pytest.approx(z, rel=1e-9, abs=1e-9)
        expected = percentileofscore(draws[i], values[i], kind="mean") / 100
        assert found.percentile[i] == pytest.approx(expected)


@given(values=arrays(float, 4, elements=finite), draws=arrays(float, (4, 7), elements=finite))
def test_the_order_of_the_draws_changes_nothing(values, draws):
    found, turned = (standing(values, d, resolution=0) for d in (draws, draws[:, ::-1]))
    np.testing.assert_allclose(found.z, turned.z, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.percentile, turned.percentile, rtol=1e-12)


ALIKE = ([0.0] * 3, [2.0] * 3, [3.18238517] * 3, [1e-9, 2e-9, 3e-9])


@pytest.mark.parametrize("row", [*ALIKE, [1.0, np.nan, 2.0], [1.0, np.inf, 2.0]])
def test_where_draws_do_not_differ_or_are_no_numbers_the_standing_is_undefined(row):
    found = standing(np.array([1.0, 1.0]), np.array([row, [1.0, 2.0, 3.0]]), resolution=1e-8)
    assert found.defined.tolist() == [False, True]
    assert np.isnan(found.z[0])
    assert np.isnan(found.percentile[0])
    assert found.z[1] == -1


def test_a_value_that_is_no_number_is_undefined():
    found = standing(np.array([np.nan]), np.array([[1.0, 2.0]]), resolution=0)
    assert not found.defined.any()


@pytest.mark.parametrize("shape", [(3, 1), (3, 0), (3,)])
def test_fewer_than_two_draws_have_no_spread(shape):
    with pytest.raises(ValueError, match="two draws or more"):
        standing(np.ones(3), np.ones(shape), resolution=0)
