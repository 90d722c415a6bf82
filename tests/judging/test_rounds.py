"""Runs that end early, through the judge."""

from pathlib import Path

import pytest

import saebench
from saebench.records.verdict import Verdict

LIMITS = 'schema_version = 1\n[fidelity]\ngates = [ { rule = "fidelity.kl<=%s" } ]\n'


def _judge(tiny, tmp_path: Path, limit, *saes, **options):
    thresholds = tmp_path / "t.toml"
    thresholds.write_text(LIMITS % limit)
    given = {"properties": "fidelity", "sequences": 40, "stop_early": True} | options
    return saebench.judge(
        list(saes) or tiny.good, tiny.model, tiny.texts, thresholds=str(thresholds), **given
    )


def _kl(run, place=0):
    return next(m for m in run.cases[place].metrics if m.name == "fidelity.kl")


def test_a_clear_case_ends_at_the_first_look(tiny, tmp_path):
    run = _judge(tiny, tmp_path, 9)
    (case,) = run.cases
    assert case.verdict is Verdict.PASS
    assert _kl(run).n.sequences == 32
    assert case.series["look"]["number"] == 1
    assert _kl(run).ci.level == pytest.approx(1 - 0.05 * 5 / 7 * 0.8**3)
    assert "ended after 32 sequences, at look 1 of 2" in str(case.series["sentences"])


def test_what_is_measured_is_the_first_part_of_the_whole_run(tiny, tmp_path):
    early = _judge(tiny, tmp_path, 9, properties=["fidelity", "kl_gap"])
    first = _judge(
        tiny, tmp_path, 9, properties=["fidelity", "kl_gap"], sequences=32, stop_early=False
    )
    ours, theirs = ({m.name: m.value for m in r.cases[0].metrics} for r in (early, first))
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert early.cases[0].basis.dataset != first.cases[0].basis.dataset


def test_an_undecided_case_is_measured_to_the_end_and_gives_the_whole_runs_numbers(tiny, tmp_path):
    whole = _judge(tiny, tmp_path, 9, stop_early=False)
    close = _kl(whole).value
    run = _judge(tiny, tmp_path, close)
    assert run.cases[0].verdict is Verdict.INCONCLUSIVE
    assert _kl(run).n.sequences == 40
    assert _kl(run).value == pytest.approx(close, rel=1e-6)
    assert run.cases[0].fingerprint == whole.cases[0].fingerprint


def test_each_sae_leaves_when_it_is_decided(tiny, tmp_path):
    close = _kl(_judge(tiny, tmp_path, 9, stop_early=False)).value
    run = _judge(tiny, tmp_path, close, tiny.good, tiny.bad)
    assert [_kl(run, place).n.sequences for place in (0, 1)] == [40, 32]
    assert run.cases[1].verdict is Verdict.FAIL


def test_cases_that_end_at_different_looks_have_different_fingerprints(tiny, tmp_path):
    early, whole = _judge(tiny, tmp_path, 9), _judge(tiny, tmp_path, 9, stop_early=False)
    assert early.cases[0].fingerprint != whole.cases[0].fingerprint


def test_every_source_is_measured_in_rounds_or_in_one_go(tiny, tmp_path):
    names = ["single_token", "controls", "hard_tokens", "context_length"]
    run = _judge(tiny, tmp_path, 9, properties=names, draws=4, position=3, draw_position=4)
    assert Verdict.ERROR not in {case.verdict for case in run.cases}


def test_a_run_that_ends_early_is_no_baseline_and_no_shards(gate_run, tiny):
    for option in ("--sae-update-baselines", "--sae-workers=2"):
        assert "--sae-stop-early" in gate_run.refused("--sae-stop-early", option)
    done = gate_run.judge("--sae", tiny.good, "--sae-stop-early", "-k", "fidelity")
    assert "ended after" in done.stdout.str()
