"""The analysis of features, against SAEs whose change is known, and against scipy."""

import numpy as np
import pytest
import torch
from scipy import stats

from saebench.fit.repair.suppression import LEAST_TOKENS, Activity, activity, analyse, correlations

WIDTH, FEATURES, TOKENS = 8, 24, 3000


def standard(seed=0):
    from sae_lens import StandardSAE, StandardSAEConfig

    sae = StandardSAE(StandardSAEConfig(d_in=WIDTH, d_sae=FEATURES, apply_b_dec_to_input=False))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (sae.W_enc, sae.W_dec):
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        sae.b_enc.copy_(torch.linspace(-4, 1, FEATURES))
    return sae.eval()


def activations():
    return torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def features():
    """Each feature at each token, by plain matrix products."""
    sae = standard()
    return torch.relu(activations() @ sae.W_enc + sae.b_enc).detach().double().numpy()


def test_activity_counts_and_sums_each_feature(features):
    result = activity(standard(), activations().split(700))
    assert result.tokens == TOKENS
    assert np.array_equal(result.on, (features > 0).sum(0))
    assert np.allclose(result.total, features.sum(0), rtol=1e-5)


def scaled(factors, *, turned=False):
    sae = standard()
    with torch.no_grad():
        sae.W_dec.mul_(torch.as_tensor(factors, dtype=torch.float32)[:, None])
        if turned:  # each row by a right angle in its first two components
            first, second = sae.W_dec[:, 0].clone(), sae.W_dec[:, 1].clone()
            sae.W_dec[:, 0], sae.W_dec[:, 1] = -second, first
    return sae


FACTORS = np.linspace(1.0, 2.0, FEATURES)


def analysed(after, *, l1_coefficient=None):
    result = activity(standard(), [activations()])
    return result, analyse(standard(), after, result, l1_coefficient=l1_coefficient)


def test_scaling_and_the_additive_change_are_those_that_were_made(features):
    active, result = analysed(scaled(FACTORS))
    often = (features > 0).sum(0) >= LEAST_TOKENS
    assert 8 <= often.sum() < FEATURES
    assert (result.features, result.left_out) == (often.sum(), (~often).sum())
    assert result.scaling == pytest.approx(FACTORS[often], rel=1e-5)
    norms = np.linalg.norm(standard().W_dec.detach().numpy(), axis=1)
    strength = np.array([features[:, i][features[:, i] > 0].mean() for i in range(FEATURES)])
    added = ((FACTORS - 1) * strength * norms)[often]
    assert result.additive == pytest.approx(added, rel=1e-4)
    assert result.additive_mean == pytest.approx(added.mean(), rel=1e-4)
    assert result.additive_median == pytest.approx(np.median(added), rel=1e-4)
    assert result.log_strength == pytest.approx(np.log((strength * norms)[often]), rel=1e-4)
    assert result.log_frequency == pytest.approx(np.log((features > 0).mean(0)[often]), rel=1e-5)
    assert result.cosine == pytest.approx(np.ones(often.sum()), abs=1e-6)


def test_the_rotation_is_the_cosine_of_the_rows_whatever_their_length(features):
    _, result = analysed(scaled(FACTORS, turned=True))
    before, after = (s.W_dec.detach().double() for s in (standard(), scaled(FACTORS, turned=True)))
    expected = torch.cosine_similarity(before, after).numpy()
    expected = expected[(features > 0).sum(0) >= LEAST_TOKENS]
    assert result.cosine == pytest.approx(expected, abs=1e-6)
    assert result.cosine_mean == pytest.approx(expected.mean(), abs=1e-6)
    assert result.cosine_lowest == pytest.approx(expected.min(), abs=1e-6)


def test_theory_is_half_the_coefficient_and_none_where_that_is_unknown():
    assert analysed(scaled(FACTORS), l1_coefficient=1.5)[1].additive_theory == 0.75
    assert analysed(scaled(FACTORS))[1].additive_theory is None


def test_too_few_features_that_fire_are_not_analysed():
    on = np.zeros(FEATURES)
    on[:7] = LEAST_TOKENS
    assert analyse(standard(), standard(), Activity(TOKENS, on, on), l1_coefficient=None) is None
    on[7] = LEAST_TOKENS
    assert analyse(standard(), standard(), Activity(TOKENS, on, on), l1_coefficient=None)


def test_a_topk_that_ranks_by_decoder_norm_has_the_norm_in_its_features_already():
    from sae_lens import TopKSAE, TopKSAEConfig

    sae = TopKSAE(TopKSAEConfig(d_in=WIDTH, d_sae=FEATURES, k=4, rescale_acts_by_decoder_norm=True))
    plain = TopKSAE(
        TopKSAEConfig(d_in=WIDTH, d_sae=FEATURES, k=4, rescale_acts_by_decoder_norm=False)
    )
    with torch.no_grad():
        sae.W_dec.mul_(3)
        plain.W_dec.copy_(sae.W_dec / sae.W_dec.norm(dim=1, keepdim=True))
    on = np.full(FEATURES, 500)
    result = analyse(sae, plain, Activity(TOKENS, on, on), l1_coefficient=None)
    assert result.scaling == pytest.approx(np.ones(FEATURES), abs=1e-6)


@pytest.fixture(scope="module")
def columns():
    rng = np.random.default_rng(0)
    strength, noise = rng.normal(size=200), rng.normal(size=(2, 200))
    frequency = 0.5 * strength + noise[0]
    return {"log strength": strength, "log frequency": frequency}, strength - frequency + noise[1]


def test_correlations_and_their_intervals_are_scipys(columns):
    logs, y = columns
    for each in correlations(logs, "scaling", y):
        if each.given is None:
            expected = stats.pearsonr(logs[each.x], y)
            ends = expected.confidence_interval(0.95)
            assert each.r.value == pytest.approx(expected.statistic)
            assert (each.r.low, each.r.high) == pytest.approx((ends.low, ends.high))


def test_partial_correlations_are_those_of_the_textbook(columns):
    logs, y = columns
    plain = {e.x: e.r.value for e in correlations(logs, "y", y) if e.given is None}
    between = stats.pearsonr(*logs.values()).statistic
    for each in (e for e in correlations(logs, "y", y) if e.given is not None):
        one, other = plain[each.x], plain[each.given]
        expected = (one - other * between) / np.sqrt((1 - other**2) * (1 - between**2))
        assert each.given != each.x
        assert each.r.value == pytest.approx(expected)
        half = stats.norm.ppf(0.975) / np.sqrt(200 - 1 - 3)
        assert each.r.high == pytest.approx(np.tanh(np.arctanh(expected) + half))


def test_what_does_not_vary_has_no_correlation(columns):
    logs, y = columns
    assert {e.r.value for e in correlations(logs, "y", np.ones_like(y))} == {None}
