"""What pairing gains, measured."""

import pytest

from perf.pairing import METRICS, Gain, gains, with_noise
from saebench.options import Settings


def _gains(model, texts, sae, other, tmp_path, *, sequences):
    noisy = with_noise(sae, tmp_path / "noisy", share=0.003)
    settings = Settings(
        model=model, dataset=texts, sequences=sequences, interventions=("eps_random",)
    )
    base, second = (path.rpartition("/")[2] for path in (sae, other))
    pairs = [(base, "noisy"), (base, second)]
    found = gains(settings, [sae, other, noisy], pairs)
    assert len(found) == 2 * len(METRICS)
    return {(each.pair[1], each.metric): each.factor for each in found}


def test_a_retouched_sae_is_told_from_its_original_far_more_finely_in_pairs(tiny, tmp_path):
    found = _gains(tiny.model, tiny.texts, tiny.good, tiny.bad, tmp_path, sequences=24)
    assert found["noisy", "fidelity.kl"] > 5
    assert all(factor > 0.8 for factor in found.values()), found


def test_on_real_saes_pairing_gains_most_where_the_two_are_alike(real_data, tmp_path):
    found = _gains(
        real_data.model, real_data.heldout, real_data.sae("l2-standard"),
        real_data.sae("l2-topk16"), tmp_path, sequences=48,
    )  # fmt: skip
    assert found["noisy", "fidelity.kl"] > 50
    for metric in METRICS:
        assert found["noisy", metric] > 1.5 * found["stories260K-l2-topk16", metric]


def test_equal_measurements_differ_by_nothing_in_pairs():
    assert Gain(("a", "a"), "fidelity.kl", 0.0, 0.1).factor == pytest.approx(float("inf"))
