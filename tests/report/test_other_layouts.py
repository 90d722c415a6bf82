"""Our results in SAELens' and SAEBench's layouts, against SAELens itself and as SAEBench reads."""

import json
from dataclasses import replace

import pytest
from runs import make_case, make_run
from saelens_evals import BATCH, CONTEXT, SEQUENCES, run_evals_on

import saebench
from saebench.data.documents import open_documents
from saebench.data.tokens import take_sequences
from saebench.report.sae_bench import ABSENT, file_name, to_sae_bench
from saebench.report.sae_lens import names_of, to_sae_lens
from saebench.results import Verdict
from saebench.subjects.host_loading import load_host

# SAELens ablates position 0 too, and averages the bias over batches.
OTHERWISE = {"kl_div_score", "kl_div_with_ablation", "ce_loss_score", "ce_loss_with_ablation"}
ROUGHLY = {"relative_reconstruction_bias": 2e-3}
# What sae-bench 0.6.0's reader and its schema demand of a core result, typed from its source.
READ = {"eval_type_id", "eval_config", "eval_id", "datetime_epoch_millis", "eval_result_metrics",
        "eval_result_details", "eval_result_unstructured", "sae_bench_commit_hash", "sae_lens_id",
        "sae_lens_release_id", "sae_lens_version", "sae_cfg_dict"}  # fmt: skip
CORE = 7 + 4 + 4 + 2 + 2 + 7  # numbers in its seven groups: 3 + 4, 4, 4, 2, 2 and 7


@pytest.fixture(scope="module")
def run(tiny):
    return saebench.judge(tiny.good, tiny.model, tiny.texts, sequences=8)


def test_the_numbers_under_saelens_names_are_saelens(real_data):
    host = load_host(real_data.model, device="cpu", dtype="float32", asked_by="test")
    tokens = take_sequences(
        open_documents(real_data.heldout), host.tokenizer, sequences=SEQUENCES, context=CONTEXT,
        prepend_bos=True, special_ids=host.special_ids,
    )  # fmt: skip
    theirs = run_evals_on(real_data.model, real_data.sae("l2-standard"), host, tokens)
    judged = saebench.judge(
        real_data.sae("l2-standard"), real_data.model, real_data.heldout, sequences=SEQUENCES,
        context=CONTEXT, batch_size=BATCH, properties=["fidelity", "shrinkage", "sparsity"],
    )  # fmt: skip
    (result,) = to_sae_lens(judged)
    compared = set()
    for group in set(result["metrics"]) - {"token_stats"}:
        for name, ours in result["metrics"][group].items():
            assert name in theirs[group]
            if name not in OTHERWISE:
                assert ours == pytest.approx(theirs[group][name], rel=ROUGHLY.get(name, 1e-4)), name
                compared.add(name)
    assert len(compared) == 11


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
    assert found["sae_cfg_dict"]["d_sae"] == 32
    return {k: v for group in found["eval_result_metrics"].values() for k, v in group.items()}


def test_a_number_that_was_not_measured_is_saebenchs_own_minus_one_and_is_listed(run):
    found = to_sae_bench(run, run.saes[0])
    told = found["eval_result_unstructured"]["saebench"]["not_measured"]
    flat = _as_its_plots_read(found)
    assert {name for name, value in flat.items() if value == ABSENT} == set(told)
    assert set(told) == {
        "explained_variance_legacy", "l2_norm_out", "average_max_encoder_cosine_sim",
        "average_max_decoder_cosine_sim",
    }  # fmt: skip


def test_the_shares_of_frequent_features_are_those_of_the_densities(tiny):
    run = saebench.judge(tiny.good, tiny.model, tiny.texts, sequences=8, properties="sparsity")
    misc = to_sae_bench(run, run.saes[0])["eval_result_metrics"]["misc_metrics"]
    histogram = run.cases[0].series["density_histogram"]
    counts = dict(zip(histogram["edges"], histogram["counts"], strict=False))
    above = sum(n for edge, n in counts.items() if edge >= 0.1 * (1 - 1e-9))
    assert misc["freq_over_10_percent"] == pytest.approx(above / 32)
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


def test_an_older_result_without_tokens_or_means_is_still_exported():
    case = make_case("one", "fidelity", Verdict.PASS)
    run = make_run(replace(case, basis=None))
    (result,) = to_sae_lens(run)
    assert result["eval_cfg"]["dataset"] is None
    assert to_sae_bench(run, run.saes[0])["eval_config"]["dataset"] == "unknown"


def _metric(run, name):
    return next(m.value for case in run.cases for m in case.metrics if m.name == name)
