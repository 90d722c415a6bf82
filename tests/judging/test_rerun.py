"""What measuring again changes."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from saebench.gates.grammar import parse_rule
from saebench.gates.margins import Against, decide_margin
from saebench.judging.rerun import rerun_noise
from saebench.properties import find_property
from saebench.results import Direction, Interval, Metric, SampleSize, Verdict

KL = [spec for spec in find_property("fidelity").metrics if spec.name == "fidelity.kl"]


def _made(kl):
    table = {"sae.kl": np.asarray(kl, dtype=float), "n.scored": np.full(len(kl), 10.0)}
    return SimpleNamespace(table=lambda: table)


def test_equal_measurements_have_no_noise():
    assert rerun_noise(KL, _made([1, 2, 3]), _made([1, 2, 3])) == {"fidelity.kl": 0}


def test_differences_that_cancel_by_luck_are_noise_all_the_same():
    found = rerun_noise(KL, _made([1, 2, 3, 4]), _made([1.1, 1.9, 3.1, 3.9]))
    assert found["fidelity.kl"] == pytest.approx(0.1 * 2 / 40, rel=1e-6)


def test_a_metric_that_is_no_formula_of_the_sums_at_hand_has_none():
    specs = find_property("kl_gap").metrics
    assert rerun_noise(specs, _made([1, 2]), _made([1, 2])).keys() <= {"kl_gap.kl[sae]"}


@pytest.mark.parametrize(("noise", "verdict"), [(0.02, Verdict.ERROR), (0.01, Verdict.PASS)])
def test_a_margin_below_three_times_the_measured_noise_is_refused(noise, verdict):
    metric = Metric("fidelity.kl", 1, 0.1, "nats", Direction.LOWER, SampleSize(64, 640))
    found = Against("old", 0.1, 0.0, Interval(-0.01, 0.01, 0.95, ""), True, noise)
    gate = decide_margin(parse_rule("fidelity.kl:+5%"), metric, found)
    assert gate.verdict is verdict
    assert ("3 times what running again changes" in gate.sentence) == (verdict is Verdict.ERROR)


def test_a_baseline_stores_its_noise_and_a_refused_update_fails_the_run(gate_run, tiny):
    args = ("--sae", tiny.good, "--sae-update-baselines", "-k", "fidelity")
    assert gate_run.judge(*args, "--sae-fail-on", "fidelity.kl<=9").ret in (0, 1)
    (path,) = (gate_run.pytester.path / "baselines").glob("*/*/*.json")
    content = json.loads(path.read_text())
    (case,) = content["cases"].values()
    assert 0 <= case["metrics"]["fidelity.kl"]["noise"] < 1e-4
    path.write_text("{}")
    done = gate_run.judge(*args, "--sae-thresholds", _no_gates(gate_run))
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    assert "ERROR" in done.stdout.str()


def _no_gates(gate_run) -> str:
    path = gate_run.pytester.path / "none.toml"
    path.write_text("schema_version = 1\n")
    return str(path)
