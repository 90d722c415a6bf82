"""A gate needs 30 independent documents; with fewer it is undecided, whatever its interval says."""

import json
from pathlib import Path

import numpy as np
import pytest

import saebench
from saebench.options import AMOUNTS, Profile, Settings
from saebench.records.verdict import Verdict
from saebench.report.markdown import to_markdown
from saebench.report.terminal import data_lines
from saebench.statistics.bootstrap import sample
from saebench.statistics.clusters import CLUSTER

EVERY_KIND = ("fidelity.kl<=9", "fidelity.ce_increase<=-9", "fidelity.kl<control.random_init*50")


def _judge(tiny, sequences, **options):
    given = {"properties": ["fidelity"], "fail_on": EVERY_KIND} | options
    return saebench.judge(tiny.good, tiny.model, given.pop("data", tiny.texts),
                          sequences=sequences, **given)  # fmt: skip


def _texts(tiny):
    return [json.loads(line)["text"] for line in Path(tiny.texts).read_text().splitlines()]


def _given(run):
    return [gate for gate in run.cases[0].gates if gate.rule in EVERY_KIND]


@pytest.mark.usefixtures("thirty_documents")
def test_four_documents_decide_no_limit_and_no_limit_set_by_a_control(tiny):
    run = _judge(tiny, 4)
    assert {gate.verdict for gate in run.cases[0].gates} == {Verdict.INCONCLUSIVE}
    assert run.cases[0].verdict is Verdict.INCONCLUSIVE
    for gate in _given(run):
        assert "rests on 4 independent documents; 30 are needed: 26 more." in gate.sentence
    assert not run.passed


@pytest.mark.usefixtures("thirty_documents")
def test_thirty_documents_decide_and_twenty_nine_do_not(tiny):
    decided = [{gate.verdict for gate in _given(_judge(tiny, n))} for n in (29, 30)]
    assert decided == [{Verdict.INCONCLUSIVE}, {Verdict.PASS, Verdict.FAIL}]


@pytest.mark.usefixtures("thirty_documents")
def test_four_documents_ten_times_are_four_documents(tiny):
    data = [f"w{i} {text}" for i in range(10) for text in _texts(tiny)[:4]]
    run = _judge(tiny, 40, data=data, context=20)
    assert "rests on 4 independent documents" in run.cases[0].reason
    (line,) = data_lines(run)
    assert "40 sequences of 20 tokens, 4 independent documents: 36 repeat or nearly" in line
    assert run.datasets[0].independent == 4
    assert "36 of 40 sequences repeat another, wholly or nearly" in str(run.saes[0].notes)


@pytest.mark.usefixtures("thirty_documents")
def test_fewer_decide_where_the_user_says_so_and_everything_says_it(tiny):
    run = _judge(tiny, 4, min_documents=3)
    assert {gate.verdict for gate in _given(run)} == {Verdict.PASS, Verdict.FAIL}
    assert run.run.least_documents == 3
    says = "3 independent documents decide here (--sae-min-documents), where 30 do by default"
    assert says in " ".join(data_lines(run))
    assert "3 independent documents decide here" in to_markdown(run)


@pytest.mark.usefixtures("thirty_documents")
def test_more_can_be_asked_for(tiny):
    run = _judge(tiny, 36, min_documents=37)
    assert "rests on 36 independent documents; 37 are needed: 1 more." in run.cases[0].reason
    assert "by default" not in " ".join(data_lines(run))


@pytest.mark.usefixtures("thirty_documents")
def test_what_checks_the_harness_is_decided_on_any_text(tiny):
    run = _judge(tiny, 4, properties=["controls"], fail_on=())
    assert {gate.verdict for gate in run.cases[0].gates} == {Verdict.PASS}


@pytest.mark.usefixtures("thirty_documents")
def test_secondary_gates_of_few_documents_are_undecided_too(tiny):
    secondary = [gate for gate in _judge(tiny, 4).cases[0].gates if gate.secondary]
    assert secondary
    assert {gate.verdict for gate in secondary} == {Verdict.INCONCLUSIVE}
    assert {gate.evidence for gate in secondary} == {None}


@pytest.mark.usefixtures("thirty_documents")
def test_a_look_at_fewer_documents_does_not_end_a_run(tiny, tmp_path):
    """Its 32 sequences are of 4 documents; the 8 more that make 12 decide as little."""
    texts = _texts(tiny)
    data = [f"w{i} {text}" for i in range(8) for text in texts[:4]] + texts[4:12]
    limits = tmp_path / "limits.toml"
    limits.write_text('schema_version = 1\n[fidelity]\ngates = [{ rule = "fidelity.kl<=999" }]\n')
    options = {"context": 20, "stop_early": True, "data": data, "fail_on": (), "order": "file",
               "thresholds": str(limits)}  # fmt: skip
    at_the_end = _judge(tiny, 40, min_documents=10, **options)
    at_once = _judge(tiny, 40, min_documents=4, **options)
    kl = [run.cases[0].metric("fidelity.kl") for run in (at_the_end, at_once)]
    assert [metric.n.sequences for metric in kl] == [12, 4]
    assert at_the_end.cases[0].series["look"]["sequences"] == 40
    assert at_once.cases[0].series["look"]["sequences"] == 32


def test_every_profile_measures_enough_documents():
    assert all(min(a.sequences, a.prompts) >= 60 for a in AMOUNTS.values())
    assert AMOUNTS[Profile.RELEASE].drawn_sequences >= 30
    assert Settings(min_documents=7).least_documents == 7


def test_intervals_of_near_copies_hold_the_truth_as_often_as_they_say():
    """Stories in one to six near-copies each: 95% intervals of the mean, over 400 runs."""
    hits = {"clusters": 0, "blind": 0}
    for seed in range(400):
        rng = np.random.default_rng(seed)
        copies = rng.integers(1, 7, 60)
        story = np.repeat(rng.lognormal(0.0, 0.5, 60), copies)
        kl = story * rng.lognormal(0.0, 0.05, len(story))
        table = {"kl": kl, "n": np.ones(len(kl))}
        cluster = np.repeat(np.arange(60.0), copies)
        for name, given in (("clusters", table | {CLUSTER: cluster}), ("blind", table)):
            interval = sample(lambda s: s["kl"] / s["n"], given).interval()
            hits[name] += np.exp(0.125 + 0.00125) in interval
    assert 0.92 <= hits["clusters"] / 400 <= 0.98
    assert hits["blind"] / 400 < 0.85
