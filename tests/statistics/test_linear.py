"""Influences against the jackknife and derivatives by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saebench.statistics.linear import influences


def _table(seed: int, n: int = 40) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"kl": rng.gamma(2, 1, n), "n": rng.integers(20, 40, n).astype(float)}


@given(st.integers(0, 2**32 - 1))
def test_a_ratios_influences_are_its_residuals(seed):
    table = _table(seed)
    kl, n = table["kl"], table["n"]
    by_hand = (kl - kl.sum() / n.sum() * n) / n.sum()
    found = influences(lambda s: s["kl"] / s["n"], table)
    assert found == pytest.approx(by_hand, rel=1e-5, abs=1e-9)


def test_the_standard_error_of_influences_is_the_jackknifes_to_first_order():
    table, n = _table(1, 400), 400
    left_out = [
        np.log(np.delete(table["kl"], i).sum() / np.delete(table["n"], i).sum()) for i in range(n)
    ]
    jackknife = np.sqrt((n - 1) ** 2 / n) * np.std(left_out, ddof=1)
    pulls = influences(lambda s: np.log(s["kl"] / s["n"]), table)
    assert np.sqrt(n / (n - 1) * np.sum(pulls**2)) == pytest.approx(jackknife, rel=0.01)


def test_influences_add_up_to_nothing():
    assert influences(lambda s: s["kl"] / s["n"], _table(0)).sum() == pytest.approx(0, abs=1e-12)


def test_a_sum_that_is_the_same_everywhere_has_no_influence():
    table = {"kl": np.full(10, 0.1), "n": np.full(10, 3.0)}
    assert (influences(lambda s: s["kl"] / s["n"], table) == 0).all()
