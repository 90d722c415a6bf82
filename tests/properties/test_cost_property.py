"""What is timed, when it is timed, and where the times go."""

import json
import os

import numpy as np
import pytest

import saebench


@pytest.fixture
def timed(gate_run, pytestconfig):
    """The gate's directory with the cost benchmark beside the others."""
    source = pytestconfig.rootpath / "benchmarks" / "test_cost.py"
    (gate_run.pytester.path / "benchmarks" / "test_cost.py").write_text(source.read_text())
    return gate_run


def _metrics(result):
    found = [m for case in result["cases"] for m in case["metrics"]]
    return {metric["name"]: metric["value"] for metric in found}


def test_cost_is_not_timed_beside_other_cases(timed, tiny):
    done = timed.judge("--sae", tiny.good)
    done.assert_outcomes(passed=4, skipped=1, deselected=2)
    assert not any(name.startswith("cost.") for name in _metrics(timed.result()))


def test_cost_is_timed_beside_other_cases_where_asked_for_and_last(timed, tiny):
    done = timed.judge("--sae", tiny.good, "--sae-cost")
    done.assert_outcomes(passed=6, skipped=1)
    properties = [case["property"] for case in timed.result()["cases"]]
    assert properties[-2:] == ["cost", "cost"]


def test_cost_alone_is_timed(timed, tiny):
    timed.judge("--sae", tiny.good, "-k", "cost").assert_outcomes(passed=2, deselected=5)
    found = _metrics(timed.result())
    assert found["cost.tokens_per_s[reconstruct]"] > found["cost.tokens_per_s[core]"] > 0
    assert found["cost.peak_memory"] > 10**7


@pytest.mark.skipif(
    "PYTEST_XDIST_WORKER" in os.environ, reason="pytest-benchmark times nothing there"
)
def test_the_benchmark_file_carries_the_metrics(timed, tiny, tmp_path):
    out = tmp_path / "benchmark.json"
    timed.judge("--sae", tiny.good, "-k", "cost", f"--benchmark-json={out}")
    written = json.loads(out.read_text())["benchmarks"]
    assert {b["params"]["part"] for b in written} == {"reconstruct", "core"}
    core = next(b for b in written if b["params"]["part"] == "core")
    assert core["extra_info"]["cost.tokens_per_s[core]"] > 0
    assert core["stats"]["rounds"] == 3


def test_parameters_are_counted(tiny):
    run = saebench.judge(tiny.good, tiny.model, tiny.texts, sequences=4, properties=["cost"])
    found = {m.name: m.value for case in run.cases for m in case.metrics}
    from safetensors.numpy import load_file

    weights = load_file(f"{tiny.good}/sae_weights.safetensors")
    assert found["cost.parameters"] == sum(np.size(w) for w in weights.values())


def test_every_result_says_where_the_time_went(gate_run, tiny):
    gate_run.judge("--sae", tiny.good)
    (cost,) = gate_run.result()["cost"]
    assert cost["measured_on"] == "sequences"
    assert cost["saes"] == ["good"]
    assert {"clean", "encode", "decode", "noise", "resume", "readout", "overhead"} <= set(
        cost["seconds"]
    )
    assert all(seconds >= 0 for seconds in cost["seconds"].values())
    assert cost["peak_memory_bytes"] > 10**7


def test_times_are_not_stored_as_a_baseline(timed, tiny):
    timed.judge("--sae", tiny.good, "--sae-cost", "--sae-update-baselines", *timed.only())
    (stored,) = (timed.pytester.path / "baselines").rglob("*.json")
    cases = json.loads(stored.read_text())["cases"]
    assert cases
    assert not any("cost" in name for name in cases)
