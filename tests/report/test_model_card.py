"""Model cards, read back by huggingface_hub."""

from dataclasses import replace

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from runs import make_case, make_run

from saebench.records.case_result import Basis
from saebench.records.verdict import Verdict
from saebench.report.exports.model_card import model_index, to_model_card


def _results(run):
    card = ModelCard(to_model_card(run))
    return {each.metric_type: each for each in card.data.eval_results}


FAILED = make_run(
    make_case("one", "fidelity", Verdict.FAIL), make_case("one", "sparsity", Verdict.PASS)
)


def test_the_verdict_and_every_gated_metric_are_results():
    found = _results(FAILED)
    assert set(found) == {"saebench.verdict", "fidelity.kl", "sparsity.kl"}
    assert found["saebench.verdict"].metric_value == "FAIL"
    kl = found["fidelity.kl"]
    assert (kl.metric_value, kl.metric_args["verdict"]) == (0.5, "FAIL")
    assert (kl.metric_args["ci_low"], kl.metric_args["ci_high"]) == (0.4, 0.6)
    assert kl.metric_args["rule"] == "fidelity.kl<=1"


def test_the_card_is_named_after_the_sae_and_tagged():
    card = ModelCard(to_model_card(FAILED))
    assert card.data.model_name == "one"
    assert "saebench" in card.data.tags
    assert "## saebench: ❌ FAIL" in card.text


def test_the_tokens_are_told():
    data = _results(FAILED)["fidelity.kl"]
    assert data.dataset_name == "d"
    assert data.dataset_args["fingerprint"] == "f"
    assert data.dataset_args["sequences"] == 64


def test_two_sets_of_sequences_of_one_text_stay_apart():
    longer = replace(FAILED.datasets[0], fingerprint="g", context=512)
    case = replace(FAILED.cases[1], basis=Basis("w", "float32", "g", 0))
    run = replace(FAILED, cases=(FAILED.cases[0], case), datasets=(*FAILED.datasets, longer))
    found = _results(run)
    assert found["sparsity.kl"].dataset_args["context"] == 512
    assert found["fidelity.kl"].dataset_args["context"] == 12


def test_every_sae_has_an_entry_of_its_own(mixed_run):
    entries = model_index(mixed_run)
    assert [entry["name"] for entry in entries] == ["one", "two"]
    for entry in entries:
        name, results = model_index_to_eval_results([entry])
        assert results[0].metric_value == {"one": "ERROR", "two": "NEW"}[name]


def test_an_undefined_metric_is_no_result(mixed_run):
    found = [r for entry in model_index(mixed_run) for r in model_index_to_eval_results([entry])[1]]
    assert "fidelity.odd" not in {each.metric_type for each in found}


@pytest.mark.parametrize("name", ["a: b", "- x", "---", "'\"", "@x", "true", "1e3", "ö😀", "a\nb"])
def test_odd_names_are_read_back_from_the_yaml(name):
    run = make_run(make_case(name, "fidelity", Verdict.FAIL), saes=(name,))
    assert ModelCard(to_model_card(run)).data.model_name == name
