"""Corrected p-values against the definitions, claim by claim."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from saebench.statistics.multiplicity import benjamini_hochberg, holm

several = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@given(several)
def test_holm_is_that_of_statsmodels(p):
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1], abs=1e-12)


@given(several)
def test_benjamini_hochberg_is_that_of_statsmodels(p):
    assert benjamini_hochberg(p) == pytest.approx(multipletests(p, method="fdr_bh")[1], abs=1e-12)


@given(several)
def test_no_correction_makes_a_claim_easier_and_holm_is_the_stricter(p):
    assert (holm(p) >= np.array(p)).all()
    assert (holm(p) >= benjamini_hochberg(p) - 1e-12).all()


def test_nothing_stays_nothing():
    assert holm([]).size == 0
    assert benjamini_hochberg([]).size == 0


@pytest.mark.parametrize("p", [[-0.1], [1.5], [float("nan")], [[0.1]]])
@pytest.mark.parametrize("correct", [holm, benjamini_hochberg])
def test_what_is_no_probability_is_refused(correct, p):
    with pytest.raises(ValueError, match="expected a list of numbers in"):
        correct(p)
