"""Our results in SAELens' and SAEBench's layouts, against SAELens itself and as SAEBench reads."""

import json
from dataclasses import replace

import pytest
from runs import make_case, make_run
from saelens_evals import BATCH, CONTEXT, SEQUENCES, run_evals_on
from tiny import FEATURES

import saebench
from saebench.data.documents import open_documents
from saebench.data.tokens import take_sequences
from saebench.records.inputs import SubjectRecord
from saebench.records.verdict import Verdict
from saebench.report.exports.sae_bench import ABSENT, file_name, to_sae_bench
from saebench.report.exports.sae_lens import names_of, to_sae_lens
from saebench.subjects.host_loading import load_host

# Both tools ablate position 0 too, where the run's policies leave it out.
OTHERWISE = {"kl_div_score", "kl_div_with_ablation", "ce_loss_score", "ce_loss_with_ablation"}
ROUGHLY = {"relative_reconstruction_bias": 2e-3}  # SAELens averages it over batches
# What sae-bench 0.6.0's reader and its schema demand of a core result, typed from its source.
READ = {"eval_type_id", "eval_config", "eval_id", "datetime_epoch_millis", "eval_result_metrics",
        "eval_result_details", "eval_result_unstructured", "sae_bench_commit_hash", "sae_lens_id",
        "sae_lens_release_id", "sae_lens_version", "sae_cfg_dict"}  # fmt: skip
CORE = 7 + 4 + 4 + 2 + 2 + 7  # numbers in its seven groups: 3 + 4, 4, 4, 2, 2 and 7


@pytest.fixture(scope="module")
def run(tiny):
    return saebench.judge(tiny.good, tiny.model, tiny.texts, sequences=8, order="file")


def test_the_numbers_under_saelens_names_are_saelens(real_data):
    host = load_host(real_data.model, device="cpu", dtype="float32", asked_by="test")
    tokens = take_sequences(
        open_documents(real_data.heldout), host.tokenizer, sequences=SEQUENCES, context=CONTEXT,
        prepend_bos=True, special_ids=host.special_ids,
    )  # fmt: skip
    theirs = run_evals_on(real_data.model, real_data.sae("l2-standard"), host, tokens)
    judged = saebench.judge(
        real_data.sae("l2-standard"), real_data.model, real_data.heldout, sequences=SEQUENCES,
        context=CONTEXT, batch_size=BATCH, order="file",
        properties=["fidelity", "shrinkage", "sparsity"],
    )  # fmt: skip
    (result,) = to_sae_lens(judged)
    compared = set()
    for group in set(result["metrics"]) - {"token_stats"}:
        for name, ours in result["metrics"][group].items():
            assert ours == pytest.approx(theirs[group][name], rel=ROUGHLY.get(name, 1e-4)), name
            compared.add(name)
    assert len(compared) == 11
    assert not compared & OTHERWISE
    assert result["metrics"]["token_stats"] == theirs["token_stats"]
    assert any("kl_div_score" in note for note in result["eval_cfg"]["notes"])


def test_the_layout_is_that_of_saelens_all_eval_results(run):
    (result,) = to_sae_lens(run)
    assert set(result) == {
        "unique_id", "sae_set", "sae_id", "eval_cfg", "metrics", "feature_metrics", "sae_cfg",
    }  # fmt: skip
    assert result["eval_cfg"]["context_size"] == run.datasets[0].context
    assert result["metrics"]["sparsity"]["l0"] == _metric(run, "sparsity.l0")
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_what_was_not_measured_is_left_out_of_saelens_layout(tiny):
    run = saebench.judge(tiny.good, tiny.model, tiny.texts, sequences=4, properties="sparsity")
    (result,) = to_sae_lens(run)
    assert set(result["metrics"]) == {"sparsity", "token_stats"}
    assert result["metrics"]["token_stats"]["total_tokens_eval_reconstruction"] == 0


def test_nothing_stands_under_other_names_where_position_0_is_a_token_of_the_text(tiny):
    """SAELens and SAEBench substitute and score it, saebench does not: other numbers."""
    run = saebench.judge(tiny.good, tiny.model, tiny.texts, sequences=4, prepend_bos=False)
    (result,) = to_sae_lens(run)
    assert set(result["metrics"]) == {"token_stats"}
    assert any("position 0" in note for note in result["eval_cfg"]["notes"])
    found = to_sae_bench(run, run.saes[0])
    numbers = [v for g, v in _flat(found) if g != "token_stats"]
    assert set(numbers) == {ABSENT}
    assert any("position 0" in n for n in found["eval_result_unstructured"]["saebench"]["notes"])


def test_where_all_positions_count_saelens_ablation_is_ours(tiny):
    run = saebench.judge(tiny.good, tiny.model, tiny.texts, sequences=4, score_bos=True)
    (result,) = to_sae_lens(run)
    assert {n for g in result["metrics"].values() for n in g} >= OTHERWISE
    assert {v for g, v in _flat(to_sae_bench(run, run.saes[0])) if g != "token_stats"} == {ABSENT}


def _flat(found):
    groups = found["eval_result_metrics"].items()
    return [(group, value) for group, values in groups for value in values.values()]


def test_saebenchs_formulas_are_its_own(run, tiny):
    """sae-bench 0.6.0, get_sparsity_and_variance_metrics on one batch, typed from its source."""
    x, x_hat = _activations(run, tiny)
    resid_sum_of_squares = (x - x_hat).pow(2).sum(dim=-1)
    mean_sum_of_squares = x.pow(2).sum(dim=-1).mean(dim=0)
    mean_act_per_dimension = x.pow(2).mean(dim=0)
    total_variance = mean_sum_of_squares - mean_act_per_dimension.mean(dim=0) ** 2
    expected = {
        "explained_variance": 1 - resid_sum_of_squares.mean(dim=0) / total_variance,
        "mse": (resid_sum_of_squares / len(x)).mean(),
    }
    found = to_sae_bench(run, run.saes[0])["eval_result_metrics"]["reconstruction_quality"]
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value), rel=1e-5), name  # fp32 sums
    assert found["explained_variance"] != pytest.approx(
        _metric(run, "fidelity.explained_variance"), rel=1e-5
    )


def _activations(run, tiny):
    """Return what the SAE was given and gave, through transformers and SAELens alone."""
    import torch
    from sae_lens import SAE

    host = load_host(tiny.model, device="cpu", dtype="float32", asked_by="test")
    tokens = take_sequences(
        open_documents(tiny.texts), host.tokenizer, sequences=8, prepend_bos=True,
        context=run.datasets[0].context, special_ids=host.special_ids,
    )  # fmt: skip
    assert tokens.fingerprint == run.datasets[0].fingerprint
    sae = SAE.load_from_disk(tiny.good)
    with torch.no_grad():
        x = host.model(tokens.ids, output_hidden_states=True).hidden_states[1][tokens.counted]
        return x, sae(x)


def test_saebench_reads_every_number_it_demands(run):
    found = to_sae_bench(run, run.saes[0])
    assert set(found) == READ
    flat = _as_its_plots_read(found)
    assert len(flat) == CORE
    assert all(isinstance(value, int | float) for value in flat.values())
    assert flat["kl_div_with_sae"] == _metric(run, "fidelity.kl")
    assert flat["frac_alive"] == 1 - _metric(run, "sparsity.dead")


def _as_its_plots_read(found):
    """As sae_bench_utils/graphing_utils.py flattens a core result."""
    assert found["sae_cfg_dict"]["architecture"] == "standard"
    assert found["sae_cfg_dict"]["d_sae"] == FEATURES
    return {k: v for group in found["eval_result_metrics"].values() for k, v in group.items()}


def test_a_number_that_was_not_measured_is_saebenchs_own_minus_one_and_is_listed(run):
    found = to_sae_bench(run, run.saes[0])
    told = found["eval_result_unstructured"]["saebench"]["not_measured"]
    flat = _as_its_plots_read(found)
    assert {name for name, value in flat.items() if value == ABSENT} == set(told)
    assert set(told) == {
        "explained_variance_legacy", "l2_norm_out", "average_max_encoder_cosine_sim",
        "average_max_decoder_cosine_sim", *OTHERWISE,
    }  # fmt: skip


def test_the_shares_of_frequent_features_are_those_of_the_densities(tiny):
    run = saebench.judge(tiny.good, tiny.model, tiny.texts, sequences=8, properties="sparsity")
    misc = to_sae_bench(run, run.saes[0])["eval_result_metrics"]["misc_metrics"]
    histogram = run.cases[0].series["density_histogram"]
    counts = dict(zip(histogram["edges"], histogram["counts"], strict=False))
    above = sum(n for edge, n in counts.items() if edge >= 0.1 * (1 - 1e-9))
    assert misc["freq_over_10_percent"] == pytest.approx(above / FEATURES)
    assert misc["freq_over_10_percent"] <= misc["freq_over_1_percent"] <= misc["frac_alive"]
    assert 0 < misc["normalized_freq_over_10_percent"] <= misc["normalized_freq_over_1_percent"]


def test_verdicts_and_gates_travel_with_the_numbers(run):
    told = to_sae_bench(run, run.saes[0])["eval_result_unstructured"]["saebench"]
    assert told["verdicts"] == {case.kind: case.verdict.value for case in run.cases}
    assert len(told["gates"]) == sum(len(case.gates) for case in run.cases)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("gpt2-res-jb:blocks.8.hook_resid_pre", ("gpt2-res-jb", "blocks.8.hook_resid_pre")),
        ("runs/mine", ("local", "one")),
        ("runs:", ("local", "one")),
    ],
)  # fmt: skip
def test_release_and_id_are_the_registrys_or_local(source, expected):
    (sae,) = make_run(make_case("one", "fidelity", Verdict.PASS)).saes
    assert names_of(replace(sae, source=source)) == expected
    assert "/" not in file_name(replace(sae, source=source))


@pytest.mark.parametrize(
    ("id", "source", "expected"),
    [
        ("x", "gpt2-res-jb:blocks.8.hook_resid_pre", "gpt2-res-jb_blocks.8.hook_resid_pre"),
        ("x", "org/repo:a b/c+d=2", "org_repo_a b_c+d=2"),
        ("mine", "runs/mine", "mine_custom_sae"),
        ("mine", "SparseCoder object", "mine_custom_sae"),
        ("a/layer_3", "runs/a/layer_3", "a_layer_3_custom_sae"),
        ("l2-topk", "demo:l2-topk", "l2-topk_custom_sae"),
        ("../x", "runs/x", "__x_custom_sae"),
        ("a\nb", "runs/x", "a_b_custom_sae"),
        ("nul.x", "runs/x", "_nul.x_custom_sae"),
    ],
)  # fmt: skip
def test_files_are_called_as_saebench_calls_its_own(id, source, expected):
    """f"{release}_{sae_id}_eval_results.json" without slashes, where that is a harmless name."""
    sae = SubjectRecord(id, source, "", "", "topk", "", "", 4, 8, None)
    assert file_name(sae) == f"{expected}_eval_results.json"


@pytest.mark.parametrize(
    ("architecture", "source", "expected"),
    [
        ("standard", "runs/x", 3.0),
        ("standard", "rel:x", 5.0),  # of a release: decoder norms are folded
        ("topk", "rel:x", 3.0),  # of which SAELens cannot fold them
        ("abstopk", "runs/x", ABSENT),  # its features cancel in SAEBench's sum
        ("Mine", "runs/x", ABSENT),
    ],
)
def test_l1_is_saebenchs_sum_of_features(run, architecture, source, expected):
    sae = replace(run.saes[0], architecture=architecture, source=source)
    changed = {"sparsity.l1": 3.0, "sparsity.l1_unit_decoder": 5.0}
    cases = tuple(
        replace(c, metrics=tuple(replace(m, value=changed.get(m.name, m.value)) for m in c.metrics))
        for c in run.cases
    )
    found = to_sae_bench(replace(run, saes=(sae,), cases=cases), sae)["eval_result_metrics"]
    assert found["sparsity"]["l1"] == expected
    assert (found["misc_metrics"]["frac_alive"] == ABSENT) == (expected == ABSENT)


def test_a_transcoders_reconstruction_stands_under_no_other_name(run):
    sae = replace(run.saes[0], notes=("a transcoder: reads x",))
    (result,) = to_sae_lens(replace(run, saes=(sae,)))
    assert set(result["metrics"]) == {"sparsity", "token_stats"}
    found = to_sae_bench(replace(run, saes=(sae,)), sae)["eval_result_metrics"]
    assert set(found["reconstruction_quality"].values()) == {ABSENT}
    assert found["sparsity"]["l0"] == _metric(run, "sparsity.l0")


def test_an_older_result_without_tokens_or_means_is_still_exported():
    case = make_case("one", "fidelity", Verdict.PASS)
    run = make_run(replace(case, basis=None))
    (result,) = to_sae_lens(run)
    assert result["eval_cfg"]["dataset"] is None
    assert to_sae_bench(run, run.saes[0])["eval_config"]["dataset"] == "unknown"


def _metric(run, name):
    return next(m.value for case in run.cases for m in case.metrics if m.name == name)
