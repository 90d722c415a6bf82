"""Cloze and helpfulness read one measurement of the zoo's prompts."""

import pytest

import saebench
from saebench.experiments.cloze_prompts import ClozeEngine
from saebench.records.verdict import Verdict

SAES = ["demo:l2-topk", "demo:l2-shrunken"]


def _judged(*properties):
    """Judge these; return the run, and with what the engine measured, call by call."""
    calls = []
    real = ClozeEngine.measure
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClozeEngine, "measure", lambda *a, **k: calls.append(k) or real(*a, **k))
        return saebench.judge(SAES, properties=properties, sequences=2), calls


def _values(run, name):
    return {
        f"{case.sae}/{m.name}": m.value
        for case in run.cases for m in case.metrics if case.property == name
    }  # fmt: skip


@pytest.fixture(scope="module")
def both():
    return _judged("cloze", "helpfulness")


@pytest.fixture(scope="module")
def alone():
    return {name: _judged(name) for name in ("cloze", "helpfulness")}


def test_one_measurement_serves_both(both):
    assert len(both[1]) == 1
    assert set(both[1][0]["active"]) == {"l2-topk", "l2-shrunken"}


@pytest.mark.parametrize("name", ["cloze", "helpfulness"])
def test_one_alone_has_the_values_of_both_together(both, alone, name):
    assert _values(alone[name][0], name) == pytest.approx(_values(both[0], name), rel=1e-9)


def test_features_of_the_zoo_are_told_apart(both):
    values = _values(both[0], "helpfulness")
    for sae in ("l2-topk", "l2-shrunken"):
        assert values[f"{sae}/helpfulness.tested"] > 50
        assert 0 <= values[f"{sae}/helpfulness.share_harmful"] <= 1
    worse, better = (values[f"{sae}/helpfulness.mean_delta"] for sae in ("l2-shrunken", "l2-topk"))
    assert worse < better


def test_cloze_alone_keeps_no_features(alone):
    assert [call["active"] for call in alone["cloze"][1]] == [set()]


def test_without_prompts_it_is_skipped_with_the_option_that_gives_them(tiny):
    run = saebench.judge(tiny.good, tiny.model, tiny.texts, properties=["helpfulness"], sequences=2)
    assert run.cases[0].verdict is Verdict.SKIPPED
    assert "--sae-cloze FILE.jsonl" in run.cases[0].reason
