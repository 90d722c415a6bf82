"""The real SAEs of the stories model: known numbers and known verdicts."""

import pytest

import saebench

SEQUENCES, CONTEXT = 64, 128


@pytest.fixture(scope="module")
def run(real_data):
    """All seven SAEs, judged together."""
    return saebench.judge(
        real_data.sae("*"), real_data.model, real_data.heldout,
        sequences=SEQUENCES, context=CONTEXT, interventions=("eps_random", "zero"),
        properties=["fidelity", "kl_gap", "shrinkage", "sparsity"],
    )  # fmt: skip


def _metric(run, sae, name):
    cases = [c for c in run.cases if c.sae == f"stories260K-{sae}"]
    return next(m for case in cases for m in case.metrics if m.name == name)


def _verdict(run, sae, about):
    return next(c.verdict for c in run.cases if c.id.startswith(about) and c.sae.endswith(sae))


def test_all_seven_saes_are_judged_on_one_set_of_tokens(run):
    assert len(run.saes) == 7
    assert len(run.datasets) == len(run.models) == 1
    assert (run.datasets[0].sequences, run.datasets[0].context) == (SEQUENCES, CONTEXT)


def test_a_trained_saes_error_is_worse_than_noise_by_the_known_factor(run):
    ratio = _metric(run, "l2-standard", "kl_gap.ratio[eps_random]")
    assert 1.4 < ratio.ci.low < 1.7 < ratio.ci.high < 2.0


def test_a_trained_sae_shrinks_a_little_and_passes(run):
    ratio = _metric(run, "l2-standard", "shrinkage.l2_ratio")
    assert 0.84 < ratio.value < 0.87
    assert _verdict(run, "l2-standard", "shrinkage") == "PASS"
    assert _verdict(run, "l2-standard", "kl_gap") in ("PASS", "INCONCLUSIVE")


def test_feature_suppression_fails_the_gate(run):
    assert _metric(run, "l2-shrunken", "shrinkage.l2_ratio").value < 0.67
    assert _metric(run, "l2-shrunken", "kl_gap.ratio[eps_random]").value > 2.1
    assert _verdict(run, "l2-shrunken", "shrinkage") == "FAIL"
    assert _verdict(run, "l2-shrunken", "kl_gap") == "FAIL"


def test_the_topk_sae_has_at_most_its_k_features(run):
    assert 15 < _metric(run, "l2-topk16", "sparsity.l0").value <= 16


def test_saes_at_one_hook_share_the_zero_ablation(run):
    names = ("l2-standard", "l2-shrunken", "l2-topk16")
    values = {_metric(run, name, "kl_gap.kl[zero]").value for name in names}
    assert len(values) == 1


def test_all_saes_share_one_clean_cross_entropy(run):
    cases = [c for c in run.cases if c.property == "fidelity"]
    curves = {tuple(c.series["ce_clean_by_position"]) for c in cases}
    assert len(curves) == 1
    counted = [ce for ce in curves.pop() if ce is not None]
    assert 1.2 < sum(counted) / len(counted) < 1.6


def test_together_or_alone_gives_the_same_numbers(run, real_data):
    alone = saebench.judge(
        real_data.sae("l3-standard"), real_data.model, real_data.heldout,
        sequences=SEQUENCES, context=CONTEXT, properties=["fidelity"],
    )  # fmt: skip
    for metric in alone.cases[0].metrics:
        together = _metric(run, "l3-standard", metric.name)
        assert metric.value == pytest.approx(together.value, rel=1e-4, abs=1e-6)


def test_nothing_was_trained_on_the_texts_it_is_measured_on(run):
    assert not [note for sae in run.saes for note in sae.notes if "trained on" in note]


LAYERS = [f"l{i}-standard" for i in range(5)]


@pytest.fixture(scope="module")
def crossed(real_data):
    """The five layers' standard SAEs, against each other and on the same tokens."""
    return saebench.judge(
        [real_data.sae(name) for name in LAYERS], real_data.model, real_data.heldout,
        sequences=48, context=CONTEXT, properties=["propagation", "hard_tokens"],
    )  # fmt: skip


def _pair(run, first, second, name):
    id = f"propagation@stories260K-{first}-standard→stories260K-{second}-standard"
    case = next(case for case in run.cases if case.id == id)
    return next(m for m in case.metrics if m.name == f"propagation.{name}")


def test_every_two_of_five_layers_are_a_pair_with_every_metric(crossed):
    pairs = [case for case in crossed.cases if case.property == "propagation"]
    assert len(pairs) == 10
    assert {case.verdict.value for case in pairs} == {"NEW"}
    assert all(m.value is not None and m.ci is not None for case in pairs for m in case.metrics)


def test_shrinkage_is_felt_in_every_later_layer(crossed):
    """These SAEs shorten what they reconstruct; random errors of the same size do not."""
    for i, first in enumerate(LAYERS):
        for second in LAYERS[i + 1 :]:
            change = _pair(crossed, first[:2], second[:2], "norm_change[sae]")
            random = _pair(crossed, first[:2], second[:2], "norm_change[eps_random]")
            assert change.ci.high < -0.02 < random.ci.low


def test_two_saes_errors_add_up_to_more_than_their_sum_from_the_first_layer_on(crossed):
    first = _pair(crossed, "l0", "l1", "compounding_difference")
    later = _pair(crossed, "l2", "l3", "compounding_difference")
    assert first.ci.low > 0  # as Gurnee 2024 supposed
    assert later.ci.high < 0  # and not, here, between later layers


def test_hard_tokens_are_hard_for_other_layers_too(crossed):
    for sae in LAYERS[2:]:
        metric = _metric(crossed, sae, "hard_tokens.correlation[other_layers]")
        assert metric.ci.low > 0.05


def test_the_table_of_hard_tokens_can_be_read(crossed, real_data):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(real_data.model)
    case = next(c for c in crossed.cases if c.id == "hard_tokens@stories260K-l2-standard")
    table = case.series["tokens"]
    assert len(table) == 20
    for row in table:
        assert row["token"].isprintable()
        assert row["token"].strip() == tokenizer.decode([row["id"]]).strip()
        assert row["count"] >= 5
    gaps = [row["mean_gap"] for row in table]
    assert gaps == sorted(gaps, reverse=True)


def test_seven_saes_are_judged_on_every_property_of_their_own_in_one_run(real_data):
    run = saebench.judge(
        real_data.sae("*"), real_data.model, real_data.heldout,
        sequences=16, context=64, properties=["controls", "hard_tokens", "propagation"],
    )  # fmt: skip
    assert len(run.saes) == 7
    assert not [case.reason for case in run.cases if case.error]
    assert sum(case.property == "propagation" for case in run.cases) == 21 - 3
    controls = [case for case in run.cases if case.property == "controls"]
    assert {case.verdict.value for case in controls} == {"PASS"}
