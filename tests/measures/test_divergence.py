"""KL, CE, TV and argmax of logits, held against scipy and float64 log-softmax."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr
from torch import Tensor

from saebench.measures.divergence import PART, clean_rows, compare, cross_entropy, maximum

ROWS, VOCAB = 12, 50


def _logits(seed: int, *, scale: float = 3.0, rows: int = ROWS, vocab: int = VOCAB) -> Tensor:
    return scale * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))


def _targets(seed: int = 9) -> Tensor:
    return torch.randint(VOCAB, (ROWS,), generator=torch.Generator().manual_seed(seed))


def _log_p(logits: Tensor) -> np.ndarray:
    return log_softmax(logits.double().numpy(), axis=-1)


def _kl(clean: Tensor, changed: Tensor) -> np.ndarray:
    p, q = np.exp(_log_p(clean)), np.exp(_log_p(changed))
    return rel_entr(p, q).sum(axis=-1)


def test_kl_is_scipys_relative_entropy():
    clean, changed = _logits(0), _logits(1)
    found = compare(clean_rows(clean), changed, targets=_targets())
    # fp32 logits of size 10 carry 1e-6 each; KL here is of size 10.
    np.testing.assert_allclose(found.kl, _kl(clean, changed), rtol=1e-5)


def test_ce_is_minus_the_log_probability_of_the_target():
    clean, changed, targets = _logits(0), _logits(1), _targets()
    found = compare(clean_rows(clean), changed, targets=targets)
    rows = np.arange(ROWS)
    # Sums of fp32 numbers of size 20: their rounding is 2e-6 each.
    np.testing.assert_allclose(found.ce, -_log_p(changed)[rows, targets], rtol=1e-5, atol=1e-5)
    mine = cross_entropy(clean_rows(clean), targets)
    np.testing.assert_allclose(mine, -_log_p(clean)[rows, targets], rtol=1e-5, atol=1e-5)


def test_tv_is_half_the_l1_distance_of_the_distributions():
    clean, changed = _logits(0), _logits(1)
    found = compare(clean_rows(clean), changed, targets=_targets())
    expected = 0.5 * np.abs(np.exp(_log_p(clean)) - np.exp(_log_p(changed))).sum(axis=-1)
    np.testing.assert_allclose(found.tv, expected, rtol=1e-5)  # fp32 exp of logits of size 10


def test_agreement_is_equality_of_argmax():
    clean = _logits(0)
    changed = clean + _logits(1, scale=1.0)
    found = compare(clean_rows(clean), changed, targets=_targets())
    expected = clean.numpy().argmax(-1) == changed.numpy().argmax(-1)
    assert found.agrees.tolist() == expected.tolist()
    assert 0 < expected.sum() < ROWS


@pytest.mark.parametrize("shift", [0.0, 1.0])
@pytest.mark.parametrize("kl", [1e-7, 1e-6, 1e-5, 1e-4])
def test_tiny_kl_keeps_its_relative_precision(kl: float, shift: float):
    clean = _logits(2)
    changed = clean + _logits(3, scale=(2 * kl) ** 0.5) + shift
    found = compare(clean_rows(clean), changed, targets=_targets()).kl
    # KL = ½·Var(u) of changes u = d - d̄ of size √(2·KL); their fp32 rounding is 6e-8 of d ≤ 1,
    # its square twice that: 2·6e-8/√(2·KL), and as much again for e^u - 1.
    tolerance = 3e-7 / (2 * kl) ** 0.5
    np.testing.assert_allclose(found, _kl(clean, changed), rtol=tolerance)


def test_identity_gives_exactly_zero():
    clean = _logits(0, scale=10.0)
    found = compare(clean_rows(clean), clean.clone(), targets=_targets())
    assert found.kl.tolist() == [0.0] * ROWS
    assert found.tv.tolist() == [0.0] * ROWS
    assert found.agrees.all()


@pytest.mark.parametrize("spread", [100.0, 1000.0])
def test_logits_that_moved_beyond_exp_are_compared_in_float64(spread: float):
    clean, changed = _logits(0), _logits(1, scale=spread)
    found = compare(clean_rows(clean), changed, targets=_targets())
    log_p, log_q = _log_p(clean), _log_p(changed)
    expected = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)
    assert expected.max() > 80  # e^88 is the largest that fp32 holds
    np.testing.assert_allclose(found.kl, expected, rtol=1e-5)  # fp32 outputs and inputs
    np.testing.assert_allclose(found.ce, -log_q[np.arange(ROWS), _targets()], rtol=1e-5, atol=1e-4)


def test_one_overflowing_row_does_not_disturb_the_others():
    clean, changed = _logits(0), _logits(1)
    alone = compare(clean_rows(clean[1:]), changed[1:], targets=_targets()[1:])
    changed[0] *= 1000
    together = compare(clean_rows(clean), changed, targets=_targets())
    # The fallback serves all rows in float64: equal up to fp32 rounding of values of size 10.
    torch.testing.assert_close(together.kl[1:].float(), alone.kl, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(together.tv[1:].float(), alone.tv, rtol=1e-5, atol=1e-6)


def test_compare_leaves_its_inputs_as_they_are():
    clean, changed = _logits(0), _logits(1)
    before = clean.clone(), changed.clone()
    compare(clean_rows(clean), changed, targets=_targets())
    assert torch.equal(clean, before[0])
    assert torch.equal(changed, before[1])


@given(seed=st.integers(0, 2**20), shift=st.floats(-50, 50, width=32))
def test_a_constant_added_to_the_logits_changes_nothing(seed: int, shift: float):
    clean, changed, targets = _logits(seed), _logits(seed + 1), _targets()
    plain = compare(clean_rows(clean), changed, targets=targets)
    shifted = compare(clean_rows(clean), changed + shift, targets=targets)
    # The sum logits + shift is rounded to fp32: 4e-6 at size 50, on KL and CE of any size.
    for name in ("kl", "ce", "tv"):
        a, b = getattr(plain, name).double(), getattr(shifted, name).double()
        torch.testing.assert_close(a, b, rtol=1e-5, atol=5e-5)


@given(seed=st.integers(0, 2**20), scale=st.floats(1e-4, 20))
def test_kl_and_tv_are_never_negative_and_pinskers_inequality_holds(seed: int, scale: float):
    clean = _logits(seed)
    found = compare(clean_rows(clean), clean + _logits(seed + 1, scale=scale), targets=_targets())
    assert (found.kl >= 0).all()
    assert ((found.tv >= 0) & (found.tv <= 1 + 1e-6)).all()
    # TV ≤ √(KL/2); 1e-5 relative is the fp32 rounding of both sides.
    assert (found.tv <= (found.kl / 2).sqrt() * (1 + 1e-5) + 1e-6).all()


@given(
    seed=st.integers(0, 2**20),
    vocab=st.sampled_from([1, 2, PART - 1, PART, PART + 1, 3 * PART + 7]),
    levels=st.integers(1, 6),
)
def test_the_maximum_is_the_first_of_several_equal_maxima(seed: int, vocab: int, levels: int):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(levels, (5, vocab), generator=generator).float()
    most, where = maximum(logits)
    assert where.tolist() == logits.numpy().argmax(axis=-1).tolist()
    assert most.tolist() == logits.numpy().max(axis=-1).tolist()


@pytest.mark.parametrize("scale", [3.0, 400.0])  # the larger overflows, and goes through float64
def test_one_row_of_logits_stands_for_all(scale: float):
    clean, one = clean_rows(_logits(0)), _logits(1, scale=scale, rows=1)
    found = compare(clean, one, targets=_targets())
    expected = compare(clean, one.repeat(ROWS, 1), targets=_targets())
    for name in ("kl", "ce", "tv", "agrees"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
