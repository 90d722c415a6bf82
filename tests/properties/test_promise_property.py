"""Promises kept and broken: metadata of a tiny SAE that say what it has, and what it has not."""

from typing import Any

import pytest

import saebench
from saebench.records.verdict import Verdict

CASES = ("promise[of=l0]", "promise[of=explained_variance]")


def _judged(tiny, sae) -> tuple[list[Any], dict[str, Any]]:
    run = saebench.judge(
        sae, tiny.model, tiny.texts, sequences=24, properties=["promise", "sparsity", "fidelity"]
    )
    (name,) = [each.id for each in run.saes]
    metrics = {m.name: m for case in run.cases for m in case.metrics}
    return [next(c for c in run.cases if c.id == f"{about}@{name}") for about in CASES], metrics


@pytest.fixture(scope="module")
def measured(tiny):
    """The tiny SAE's l0 and explained variance."""
    _, metrics = _judged(tiny, tiny.good)
    return [metrics[m].value for m in ("sparsity.l0", "fidelity.explained_variance")]


def test_an_sae_without_promises_is_skipped_and_told_where_they_come_from(tiny):
    (l0, explained), _ = _judged(tiny, tiny.good)
    assert (l0.verdict, explained.verdict) == (Verdict.SKIPPED, Verdict.SKIPPED)
    assert "metadata.l0" in l0.reason
    assert "metadata.explained_variance" in explained.reason


def test_kept_promises_pass_and_are_measured_over_promised(tiny, tmp_path, measured):
    stated = {"metadata__l0": 0.95 * measured[0], "metadata__explained_variance": measured[1]}
    sae = tiny.copy_of(tiny.good, tmp_path / "kept", **stated)
    (l0, explained), metrics = _judged(tiny, str(sae))
    assert (l0.verdict, explained.verdict) == (Verdict.PASS, Verdict.PASS)
    ratio = metrics["promise.l0_ratio"]
    assert ratio.value == pytest.approx(1 / 0.95, rel=1e-9)
    sparsity = metrics["sparsity.l0"]
    assert ratio.ci.low == pytest.approx(sparsity.ci.low / (0.95 * measured[0]), rel=1e-6)
    difference = metrics["promise.explained_variance_difference"]
    assert difference.value == pytest.approx(0, abs=1e-9)
    assert difference.ci.low < 0 < difference.ci.high
    assert l0.series["source"] == "metadata.l0"
    assert "sentences" not in explained.series


def test_a_broken_l0_fails_with_the_usual_causes_and_the_other_gate_is_no_error(
    tiny, tmp_path, measured
):
    sae = tiny.copy_of(tiny.good, tmp_path / "broken", metadata__l0=measured[0] / 1.5)
    (l0, explained), _ = _judged(tiny, str(sae))
    assert (l0.verdict, explained.verdict) == (Verdict.FAIL, Verdict.SKIPPED)
    (gate,) = l0.gates
    assert "TopK read as ReLU" in gate.why
    (said,) = l0.series["sentences"]
    assert said.startswith("metadata.l0 says")


def test_an_sae_that_explains_less_than_promised_fails_and_one_that_explains_more_does_not(
    tiny, tmp_path, measured
):
    for name, by, verdict in (("less", 0.4, Verdict.FAIL), ("more", -0.5, Verdict.PASS)):
        bad = tiny.sae(f"promise-{name}", error=0.65)
        (_, _), metrics = _judged(tiny, bad)
        stated = metrics["fidelity.explained_variance"].value + by
        sae = tiny.copy_of(bad, tmp_path / name, metadata__explained_variance=stated)
        (_, explained), _ = _judged(tiny, str(sae))
        assert explained.verdict is verdict, explained.reason


def test_a_users_thresholds_change_the_limit(tiny, tmp_path, measured):
    sae = tiny.copy_of(tiny.good, tmp_path / "off", metadata__l0=measured[0] / 1.5)
    limits = tmp_path / "limits.toml"
    limits.write_text(
        'schema_version = 1\n[promise]\ngates = [{ rule = "promise.l0_ratio<=2", why = "ours" }]\n'
    )
    run = saebench.judge(
        str(sae), tiny.model, tiny.texts, sequences=24, thresholds=str(limits),
        properties=["promise"],
    )  # fmt: skip
    assert run.cases[0].verdict is Verdict.PASS


def test_topk_weights_read_as_relu_break_the_promise_of_their_k(real_data, tmp_path):
    """The mistake that the gate is for: k=16 features a token, and hundreds where k is lost."""
    import json
    import shutil

    wrong = tmp_path / "relu"
    shutil.copytree(real_data.sae("l2-topk16"), wrong)
    config = json.loads((wrong / "cfg.json").read_text())
    config.pop("k")
    config.pop("rescale_acts_by_decoder_norm", None)
    config["architecture"] = "standard"
    (wrong / "cfg.json").write_text(json.dumps(config))
    run = saebench.judge(
        [real_data.sae("l2-topk16"), str(wrong)], real_data.model, real_data.heldout,
        sequences=32, properties=["promise"],
    )  # fmt: skip
    right, relu = [case for case in run.cases if "l0" in case.id]
    assert (right.verdict, relu.verdict) == (Verdict.PASS, Verdict.FAIL)
    assert right.metrics[0].value == 1
    assert (relu.metrics[0].value or 0) > 3
