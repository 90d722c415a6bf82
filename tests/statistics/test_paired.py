"""Paired differences against scipy's paired test, and against unpaired ones."""

import numpy as np
import pytest
from scipy import stats

from saebench.statistics.bootstrap import sample
from saebench.statistics.paired import sample_pair


def relative_change(one, two):
    return (two - one) / np.abs(one)


def _mean(sums):
    return sums["kl"] / sums["n"]


def _two(n: int = 200, *, worse: float = 1.0) -> tuple[dict[str, np.ndarray], ...]:
    rng = np.random.default_rng(3)
    hard = rng.lognormal(0, 1, n)
    one, two = (hard * rng.normal(by, 0.05, n) for by in (1, worse))
    return {"kl": one, "n": np.ones(n)}, {"kl": two, "n": np.ones(n)}


def test_the_standard_error_is_that_of_the_paired_t_test():
    one, two = _two(worse=1.1)
    theirs = stats.ttest_rel(two["kl"], one["kl"])
    found = sample_pair(_mean, one, two)
    assert found.value / found.error == pytest.approx(theirs.statistic, rel=1e-5)


def test_pairing_is_tighter_where_the_same_texts_are_hard_for_both():
    one, two = _two()
    alone = np.hypot(sample(_mean, one).error, sample(_mean, two).error)
    assert sample_pair(_mean, one, two).error < 0.2 * alone


def test_a_change_of_a_tenth_is_found_as_a_share():
    one, two = _two(worse=1.1)
    ci = sample_pair(_mean, one, two, combine=relative_change).interval()
    assert ci.low < 0.1 < ci.high < 0.13


def test_a_change_from_a_negative_value_is_positive_where_it_rises():
    one, two = ({"kl": np.array(v), "n": np.ones(3)} for v in ([-2.0, -4, -6], [-1.0, -2, -3]))
    assert sample_pair(_mean, one, two, combine=relative_change).value == pytest.approx(0.5)


def test_equal_measurements_differ_by_nothing():
    one, _ = _two()
    found = sample_pair(_mean, one, dict(one))
    assert found.value == 0
    assert found.interval().low == pytest.approx(0, abs=1e-9)


def test_a_change_from_zero_has_no_interval():
    one, two = _two()
    one["kl"] = np.zeros(200)
    with np.errstate(all="ignore"):
        assert sample_pair(_mean, one, two, combine=relative_change).interval() is None


def test_tables_of_different_sequences_are_refused():
    one, _ = _two(10)
    with pytest.raises(ValueError, match=r"lengths \[10, 11\]"):
        sample_pair(_mean, one, _two(11)[1])
