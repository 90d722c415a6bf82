"""The median's interval against the binomial distribution, and how often it covers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from saebench.statistics.rank import median


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60))
def test_the_median_is_numpys_and_lies_in_its_interval(values):
    found = median(np.array(values))
    assert found.value == np.median(values)
    if found.interval is not None:
        assert found.interval.low <= found.value <= found.interval.high


@pytest.mark.parametrize("n", [6, 16, 64, 501])
def test_the_interval_lies_between_order_statistics_of_enough_binomial_probability(n):
    interval = median(np.arange(float(n))).interval
    low, high = int(interval.low), int(interval.high)  # ranks, counted from 0
    covered = binom.cdf(high, n, 0.5) - binom.cdf(low, n, 0.5)
    assert covered >= 0.95
    narrower = binom.cdf(high - 1, n, 0.5) - binom.cdf(low + 1, n, 0.5)
    assert narrower < 0.96  # it is not much wider than it must be


def test_the_interval_covers_the_true_median_of_a_skew_distribution():
    rng = np.random.default_rng(0)
    samples = rng.exponential(size=(2000, 40))
    truth, covered = np.log(2), 0
    for sample in samples:
        interval = median(sample).interval
        covered += interval.low <= truth <= interval.high
    assert covered / 2000 >= 0.94  # 0.95 or more, less four standard errors of 0.0045


@pytest.mark.parametrize("n", [1, 2, 5])
def test_too_few_values_have_no_interval(n):
    assert median(np.arange(float(n))).interval is None


def test_the_median_of_nothing_is_undefined():
    with pytest.raises(ValueError, match="of nothing"):
        median(np.array([]))
