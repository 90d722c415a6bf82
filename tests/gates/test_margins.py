"""Margins: non-inferiority to a baseline, decided by an interval of how much worse."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saebench.errors import ThresholdError
from saebench.gates.thresholds import check_margin, parse_rule
from saebench.gates.verdicts import BaselineGap, NoComparison, decide_margin
from saebench.records.metric import Direction, Fallback, Interval, Metric, SampleSize
from saebench.records.verdict import Verdict

SIZE = SampleSize(64, 6400)


def _metric(value=0.11, **changes):
    given_ = {"name": "fidelity.kl", "version": 1, "unit": "nats", "direction": Direction.LOWER}
    return Metric(**(given_ | {"value": value, "n": SIZE} | changes))


def _gap(low, high, *, worse_by=None):
    middle = (low + high) / 2 if worse_by is None else worse_by
    return BaselineGap("old@12345678", 0.1, middle, Interval(low, high, 0.95, "made up"), True)


@given(low=st.floats(-1, 1), width=st.floats(0, 1), by=st.floats(0.001, 1))
def test_the_interval_decides_and_not_the_value(low, width, by):
    rule = parse_rule(f"fidelity.kl:+{by!r}")
    verdict = decide_margin(rule, _metric(), _gap(low, low + width)).verdict
    if low + width <= by:
        assert verdict is Verdict.PASS
    else:
        assert verdict is (Verdict.FAIL if low > by else Verdict.INCONCLUSIVE)


def test_the_sentence_says_by_how_much_against_what_and_which_margin():
    gate = decide_margin(parse_rule("fidelity.kl:+5%"), _metric(), _gap(0.08, 0.12))
    assert gate.sentence == (
        "fidelity.kl = 0.11 against 0.1 of old@12345678: 10% [8, 12] worse is beyond the margin "
        "of 5%."
    )
    assert (gate.baseline, gate.worse_by, gate.observed) == (0.1, pytest.approx(0.1), 0.11)
    assert gate.limit == "baseline +5%"


def test_what_is_better_is_said_to_be_better():
    gate = decide_margin(parse_rule("fidelity.kl:+5%"), _metric(0.09), _gap(-0.12, -0.08))
    assert gate.verdict is Verdict.PASS
    assert "10% [8, 12] better" in gate.sentence


def test_an_undecided_margin_says_how_many_more_sequences_would_settle_it():
    gate = decide_margin(parse_rule("fidelity.kl:+5%"), _metric(), _gap(0.0, 0.06))
    # The half-width 0.03 must shrink to the distance 0.02: (3/2)² times 64 sequences.
    assert "About 80 more sequences" in gate.sentence


@pytest.mark.parametrize("verdict", [Verdict.NEW, Verdict.INCOMPARABLE])
def test_what_cannot_be_held_against_a_baseline_never_passes(verdict):
    gate = decide_margin(
        parse_rule("fidelity.kl:+5%"), _metric(), NoComparison(verdict, "other tokens")
    )
    assert gate.verdict is verdict
    assert "other tokens" in gate.sentence


def test_a_metric_without_a_value_or_an_interval_never_passes():
    rule = parse_rule("fidelity.kl:+5%")
    found = _gap(0, 0.01)
    assert decide_margin(rule, None, found).verdict is Verdict.ERROR
    undefined = _metric(None, note="nothing was scored")
    assert "nothing was scored" in decide_margin(rule, undefined, found).sentence
    alone = BaselineGap("old", 0.1, 0.0, None, False)
    assert decide_margin(rule, _metric(), alone).verdict is Verdict.INCONCLUSIVE


def test_a_ratio_that_is_undefined_for_being_so_good_has_its_limit_and_no_margin():
    good = _metric(None, note="undefined below 1e-4 nats", fallback=Fallback("fidelity.mse", 1e-4))
    gate = decide_margin(parse_rule("fidelity.kl:+5%"), good, _gap(0, 0.01))
    assert gate.verdict is Verdict.NEW
    assert "undefined below" in gate.sentence


@pytest.mark.parametrize(
    ("text", "direction", "right"),
    [
        ("fidelity.kl:-5%", Direction.LOWER, "fidelity.kl:+5%"),
        ("fidelity.ce_score:+0.01", Direction.HIGHER, "fidelity.ce_score:-0.01"),
    ],
)
def test_a_margin_towards_the_better_is_refused_with_the_right_one(text, direction, right):
    with pytest.raises(ThresholdError) as caught:
        check_margin(parse_rule(text), direction, where="here")
    assert right in str(caught.value)


def test_a_margin_within_what_running_again_changes_is_refused():
    with pytest.raises(ThresholdError, match="running again"):
        check_margin(parse_rule("fidelity.kl:+0.0001%"), Direction.LOWER, where="here")
    check_margin(parse_rule("fidelity.kl:+0.01%"), Direction.LOWER, where="here")
    gate = decide_margin(parse_rule("fidelity.kl:+1e-7"), _metric(), _gap(0, 0))
    assert gate.verdict is Verdict.ERROR
    assert "running again" in gate.sentence
