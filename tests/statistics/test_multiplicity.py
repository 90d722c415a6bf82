"""Corrected p-values against the definitions, claim by claim."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from saebench.statistics.levels import holm

several = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@settings(max_examples=30)  # statsmodels takes 65 ms for each
@given(several)
def test_holm_is_that_of_statsmodels(p):
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1], abs=1e-12)


@given(several)
def test_the_correction_makes_no_claim_easier(p):
    assert (holm(p) >= np.array(p)).all()


def test_nothing_stays_nothing():
    assert holm([]).size == 0


@pytest.mark.parametrize("p", [[-0.1], [1.5], [float("nan")], [[0.1]]])
def test_what_is_no_probability_is_refused(p):
    with pytest.raises(ValueError, match="expected a list of numbers in"):
        holm(p)
