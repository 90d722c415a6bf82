"""Rules by role, by run and about controls, through the judge."""

import pytest

import saebench
from saebench.errors import ThresholdError
from saebench.records.verdict import Verdict

ONE = "schema_version = 1\n[fidelity]\ngates = [ {} ]\n"


def _judge(tiny, tmp_path, *entries, properties="fidelity", **options):
    thresholds = tmp_path / "t.toml"
    thresholds.write_text(ONE.format(", ".join(f"{{ {entry} }}" for entry in entries)))
    return saebench.judge(
        tiny.good, tiny.model, tiny.texts, sequences=24, properties=properties,
        thresholds=str(thresholds), **options,
    )  # fmt: skip


def test_a_secondary_gate_is_reported_and_fails_nothing(tiny, tmp_path):
    run = _judge(
        tiny, tmp_path, 'rule = "fidelity.kl<=1e-9", role = "secondary"', 'rule = "fidelity.kl<=9"'
    )
    (case,) = run.cases
    assert case.verdict is Verdict.PASS
    secondary, primary = case.gates
    assert (secondary.secondary, secondary.verdict) == (True, Verdict.FAIL)
    assert "Holm's correction for 1 gates" in secondary.sentence
    assert (primary.secondary, primary.verdict) == (False, Verdict.PASS)
    assert run.passed


def test_secondary_gates_alone_pass_nothing(tiny, tmp_path):
    run = _judge(tiny, tmp_path, 'rule = "fidelity.kl<=9", role = "secondary"')
    assert run.cases[0].verdict is Verdict.NEW
    assert not run.passed


@pytest.mark.parametrize(
    ("narrow", "limit"),
    [
        ('model = "tiny*"', "≤ 8"),
        ('hook = "blocks.1.*"', "≤ 8"),
        ('profile = "standard"', "≤ 8"),
        ('profile = "release"', "≤ 9"),
        ('model = "other"', "≤ 9"),
    ],
)
def test_a_narrower_rule_takes_a_wider_ones_place(tiny, tmp_path, narrow, limit):
    run = _judge(tiny, tmp_path, 'rule = "fidelity.kl<=9"', f'rule = "fidelity.kl<=8", {narrow}')
    assert [gate.limit for gate in run.cases[0].gates] == [limit]


def test_a_trained_sae_is_held_against_its_control(tiny, tmp_path):
    run = _judge(tiny, tmp_path, 'rule = "fidelity.kl<control.random_init*0.5"')
    (case,) = run.cases
    (gate,) = case.gates
    assert gate.verdict is Verdict.PASS
    assert "0.5 × random_init" in gate.sentence
    assert "on 16 sequences" in gate.sentence


def test_what_is_no_better_than_its_control_fails(tiny, tmp_path):
    run = _judge(tiny, tmp_path, 'rule = "fidelity.kl<control.identity*0.5"')
    assert run.cases[0].gates[0].verdict is Verdict.FAIL
    run = _judge(tiny, tmp_path, 'rule = "fidelity.ce_score>control.identity*2"')
    assert run.cases[0].gates[0].verdict is Verdict.FAIL


def test_a_control_rule_measures_what_its_metric_needs(tiny, tmp_path):
    run = _judge(
        tiny, tmp_path, 'rule = "fidelity.kl<=9"', properties=["kl_gap", "controls"],
        fail_on=("kl_gap.ratio[cov_random]<control.permuted_decoder*0.9",),
    )  # fmt: skip
    gates = {case.kind: case.gates for case in run.cases}
    assert [g.verdict for g in gates["kl_gap[scope=all]"]] != [Verdict.ERROR]
    assert gates["kl_gap[scope=single]"] == ()


def test_an_unknown_control_is_refused_with_a_caret_and_the_nearest(tiny):
    rule = "fidelity.kl < control.randominit * 0.5"
    with pytest.raises(ThresholdError) as caught:
        saebench.judge(tiny.good, tiny.model, tiny.texts, sequences=4, fail_on=(rule,))
    said, shown, pointer = str(caught.value).splitlines()
    assert said == ("--sae-fail-on: unknown control 'randominit'; did you mean 'random_init'?")
    assert shown == f"  {rule}"
    assert pointer.index("^") == 2 + rule.index("randominit")


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("fidelity.kl<control.randominit", "did you mean 'random_init'"),
        ("cloze.accuracy_drop[whole]<control.random_init", "not measured of controls"),
        ("single_token.z_median<control.random_init", "not measured of controls"),
    ],
)
def test_a_control_that_is_not_made_is_refused(tiny, rule, expected):
    with pytest.raises(ThresholdError, match=expected):
        saebench.judge(tiny.good, tiny.model, tiny.texts, sequences=4, fail_on=(rule,))
