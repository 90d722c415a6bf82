"""What measuring again changes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import FEATURES, WIDTH

from saebench.cli.stored import known_facts
from saebench.errors import NotApplicable
from saebench.gates.thresholds import parse_rule
from saebench.gates.verdicts import BaselineGap, decide_margin
from saebench.judging import run_baselines as keeping
from saebench.judging.run_baselines import rerun_noise
from saebench.properties import find_property
from saebench.properties.base import Findings, MetricSpec, Property
from saebench.records.metric import Direction, Interval, Metric, SampleSize
from saebench.records.verdict import Verdict
from saebench.store.leaderboard import build

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

FIDELITY = find_property("fidelity")


def _made(kl):
    table = {"sae.kl": np.asarray(kl, dtype=float), "n.scored": np.full(len(kl), 10.0)}
    return SimpleNamespace(table=lambda: table)


def test_equal_measurements_have_no_noise():
    assert rerun_noise(FIDELITY, {}, _made([1, 2, 3]), _made([1, 2, 3])) == {"fidelity.kl": 0}


def test_differences_that_cancel_by_luck_are_noise_all_the_same():
    found = rerun_noise(FIDELITY, {}, _made([1, 2, 3, 4]), _made([1.1, 1.9, 3.1, 3.9]))
    assert found["fidelity.kl"] == pytest.approx(0.1 * 2 / 40, rel=1e-6)


def test_a_formula_of_sums_that_are_not_at_hand_has_none():
    declared = find_property("kl_gap")
    sums = replace(declared, metrics=tuple(s for s in declared.metrics if s.formula is not None))
    assert rerun_noise(sums, {}, _made([1, 2]), _made([1, 2])).keys() <= {"kl_gap.kl[sae]"}


def _median_of(measurement, _):
    kl = measurement.table()["sae.kl"]
    size = SampleSize(len(kl), 10 * len(kl))
    if len(kl) < 3:
        raise NotApplicable("too few")
    return Findings((Metric("made.median", 1, float(np.median(kl)), "", Direction.LOWER, size),))


MEDIAN = Property(
    "made", "", (MetricSpec("made.median", "", Direction.LOWER, None),), lambda _: (), _median_of
)


def test_the_noise_of_what_is_no_formula_of_sums_is_how_far_its_values_are_apart():
    found = rerun_noise(MEDIAN, {}, _made([1, 2, 3]), _made([1, 2.25, 3]))
    assert found == {"made.median": 0.25}


def test_what_says_nothing_of_so_few_sequences_has_no_measured_noise():
    assert rerun_noise(MEDIAN, {}, _made([1, 2]), _made([1, 2])) == {}


@pytest.mark.parametrize(("noise", "verdict"), [(0.02, Verdict.ERROR), (0.01, Verdict.PASS)])
def test_a_margin_below_three_times_the_measured_noise_is_refused(noise, verdict):
    metric = Metric("fidelity.kl", 1, 0.1, "nats", Direction.LOWER, SampleSize(64, 640))
    found = BaselineGap("old", 0.1, 0.0, Interval(-0.01, 0.01, 0.95, ""), True, noise)
    gate = decide_margin(parse_rule("fidelity.kl:+5%"), metric, found)
    assert gate.verdict is verdict
    assert ("3 times what running again changes" in gate.sentence) == (verdict is Verdict.ERROR)


def test_a_baseline_stores_its_noise_and_a_refused_update_fails_the_run(gate_run, tiny):
    args = ("--sae", tiny.good, "--sae-update-baselines", "-k", "fidelity")
    asked = (*args, *gate_run.only("fidelity"), "--sae-fail-on", "fidelity.kl<=9")
    assert gate_run.judge(*asked).ret == pytest.ExitCode.OK
    (path,) = (gate_run.pytester.path / "baselines").glob("*/*/*.json")
    content = json.loads(path.read_text())
    (case,) = content["cases"].values()
    assert 0 <= case["metrics"]["fidelity.kl"]["noise"] < 1e-4
    path.write_text("{}")
    done = gate_run.judge(*args, "--sae-thresholds", _no_gates(gate_run))
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    assert "ERROR" in done.stdout.str()


@pytest.fixture
def every_source(gate_run, tiny, tmp_path):
    """Stores a baseline of a pair's second SAE, of what else is measured in batches too."""
    for name in ("propagation", "cloze", "single_token", "helpfulness", "hard_tokens"):
        shutil.copy(BENCHMARKS / f"test_{name}.py", gate_run.pytester.path / "benchmarks")
    prompts = tmp_path / "prompts.jsonl"
    texts = [json.loads(line)["text"] for line in Path(tiny.texts).read_text().splitlines()]
    prompts.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    saes = ("--sae", tiny.early(tmp_path / "early"), "--sae", tiny.good)
    few = ("--sae-draws", "4", "--sae-position", "3", "--sae-draw-position", "4")

    def run(*args):
        return gate_run.judge(*saes, *few, "--sae-cloze", str(prompts), *args)

    return run


def _stored_cases(gate_run):
    root = gate_run.pytester.path / "baselines"
    files = [json.loads(path.read_text()) for path in root.glob("*/*/*.json")]
    return {id: case for content in files for id, case in content["cases"].items()}


def test_every_metric_of_every_source_has_a_measured_noise(every_source, gate_run):
    every_source("--sae-update-baselines", "--sae-thresholds", _no_gates(gate_run))
    cases = _stored_cases(gate_run)
    kinds = {id.partition("@")[0] for id in cases}
    assert kinds >= {
        "propagation", "cloze", "single_token[experiment=draws]", "hard_tokens", "helpfulness",
        "single_token[experiment=offsets]", "kl_gap[scope=all]", "kl_gap[scope=single]",
    }  # fmt: skip
    for id, case in cases.items():
        for name, metric in case["metrics"].items():
            # Helpful features are those active on 20 prompts and more: of 32, perhaps none.
            if metric["value"] is not None and case["property"] != "helpfulness":
                # Of a share, tokens turn over at which two KLs are equal but for rounding.
                most = 0.2 if "share" in name else 1e-3 * max(1, abs(metric["value"]))
                assert 0 <= metric["noise"] < most, (id, name)


def test_a_pairs_margin_is_held_and_below_three_times_its_noise_refused(
    every_source, gate_run, monkeypatch
):
    some = ("-k", "propagation", "--sae-thresholds", _no_gates(gate_run))
    margin = ("--sae-baseline", "baselines", "--sae-fail-on", "propagation.kl_together[sae]:+5%")
    every_source("--sae-update-baselines", *some)
    assert every_source(*margin, *some).ret == pytest.ExitCode.OK
    (gate,) = gate_run.result()["cases"][0]["gates"]
    assert (gate["verdict"], gate["worse_by"]) == ("PASS", pytest.approx(0, abs=1e-6))
    boards = build(gate_run.pytester.path / "baselines", known_facts()).boards
    assert [row.sae for board in boards for row in board.rows] == ["good"]
    value = gate["observed"]
    noisy = {"propagation.kl_together[sae]": 0.02 * value}
    monkeypatch.setattr(keeping, "rerun_noise", lambda *_: noisy)
    every_source("--sae-update-baselines", *some)
    assert every_source(*margin, *some).ret == pytest.ExitCode.TESTS_FAILED
    (gate,) = gate_run.result()["cases"][0]["gates"]
    assert gate["verdict"] == "ERROR"
    assert (
        "the margin of 5% is less than 3 times what running again changes, which is 2%"
        in (gate["sentence"])
    )


def _bytes_below(root):
    return {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_a_measurement_that_is_nan_is_not_stored_and_the_store_stays_as_it_was(
    gate_run, tiny, tmp_path
):
    update = ("--sae-update-baselines", "--sae-thresholds", _no_gates(gate_run))
    assert gate_run.judge("--sae", tiny.good, *update).ret == pytest.ExitCode.OK
    root = gate_run.pytester.path / "baselines"
    before = _bytes_below(root)
    huge = torch.full((FEATURES, WIDTH), 3e38)  # the output is infinite, the logits NaN
    bad = tiny.with_weights(tiny.good, tmp_path / "good", W_dec=huge)
    done = gate_run.judge("--sae", str(bad), *update)
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    assert "ERROR: baseline of good not updated: " in done.stdout.str()
    assert _bytes_below(root) == before
    assert before


def _no_gates(gate_run) -> str:
    path = gate_run.pytester.path / "none.toml"
    path.write_text("schema_version = 1\n")
    return str(path)
