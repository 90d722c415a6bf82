"""One rule, one metric, one verdict."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from saebench.gates.evidence import evidence
from saebench.gates.thresholds import parse_rule
from saebench.gates.verdicts import ControlGap, by_enough, decide, decide_relative
from saebench.records.metric import Direction, Fallback, Interval, Metric, SampleSize
from saebench.records.verdict import Verdict, worst
from saebench.statistics.bootstrap import sample

FINITE = st.floats(-1e6, 1e6)


def _metric(value, low=None, high=None, *, name="a.b", n=64, note=None, fallback=None):
    ci = None if low is None else Interval(low, high, 0.95, "made up")
    size = SampleSize(n, n * 100)
    return Metric(name, 1, value, "nats", Direction.LOWER, size, ci, note=note, fallback=fallback)


def _decide(rule, *metrics):
    return decide(parse_rule(rule), {m.name: m for m in metrics})


@pytest.mark.parametrize(
    ("rule", "low", "high", "verdict"),
    [
        ("a.b<=2", 1.0, 1.9, Verdict.PASS),
        ("a.b<=2", 1.0, 2.0, Verdict.PASS),
        ("a.b<=2", 1.0, 2.1, Verdict.INCONCLUSIVE),
        ("a.b<=2", 2.0, 3.0, Verdict.INCONCLUSIVE),
        ("a.b<=2", 2.1, 3.0, Verdict.FAIL),
        ("a.b>=2", 2.0, 3.0, Verdict.PASS),
        ("a.b>=2", 1.0, 3.0, Verdict.INCONCLUSIVE),
        ("a.b>=2", 1.0, 1.9, Verdict.FAIL),
        ("a.b in [1,2]", 1.2, 1.8, Verdict.PASS),
        ("a.b in [1,2]", 0.5, 1.8, Verdict.INCONCLUSIVE),
        ("a.b in [1,2]", 0.5, 2.5, Verdict.INCONCLUSIVE),
        ("a.b in [1,2]", 0.1, 0.9, Verdict.FAIL),
        ("a.b in [1,2]", 2.1, 2.9, Verdict.FAIL),
        ("a.b<2", 1.0, 1.9, Verdict.PASS),
        ("a.b<2", 1.0, 2.0, Verdict.INCONCLUSIVE),
        ("a.b<2", 2.0, 3.0, Verdict.FAIL),
        ("a.b<2", 2.0, 2.0, Verdict.FAIL),
        ("a.b<=2", 2.0, 2.0, Verdict.PASS),
        ("a.b>2", 2.0, 3.0, Verdict.INCONCLUSIVE),
        ("a.b>2", 1.0, 2.0, Verdict.FAIL),
        ("a.b>2", 2.0, 2.0, Verdict.FAIL),
    ],
)
def test_the_whole_interval_decides(rule, low, high, verdict):
    assert _decide(rule, _metric((low + high) / 2, low, high)).verdict is verdict


@given(FINITE, st.floats(0, 1e3), st.floats(0, 1e3), FINITE)
def test_pass_means_that_the_whole_interval_is_inside(value, below, above, limit):
    metric = _metric(value, value - below, value + above)
    found = _decide(f"a.b<={limit!r}", metric)
    assert (found.verdict is Verdict.PASS) == (metric.ci.high <= limit)
    assert (found.verdict is Verdict.FAIL) == (metric.ci.low > limit)
    assert found.sentence


@pytest.mark.parametrize(
    ("rule", "verdict", "limit"),
    [
        ("a.b<2", Verdict.FAIL, "is outside the limit of less than 2"),
        ("a.b<=2", Verdict.PASS, "is within the limit of at most 2"),
        ("a.b>2", Verdict.FAIL, "is outside the limit of more than 2"),
        ("a.b>=2", Verdict.PASS, "is within the limit of at least 2"),
    ],
)
def test_less_than_fails_a_value_that_is_equal(rule, verdict, limit):
    found = _decide(rule, _metric(2.0))
    assert found.verdict is verdict
    assert limit in found.sentence


@pytest.mark.parametrize(("sign", "verdict"), [("<", Verdict.FAIL), ("<=", Verdict.PASS)])
def test_an_sae_that_equals_its_control_is_not_less_than_it(sign, verdict):
    gap = ControlGap(2.0, 2.0, 0.0, Interval(0.0, 0.0, 0.95, "no spread"), 8)
    assert decide_relative(parse_rule(f"a.b{sign}control.c"), _metric(2.0), gap).verdict is verdict


@pytest.mark.parametrize(("sign", "verdict"), [("<", Verdict.FAIL), ("<=", Verdict.PASS)])
def test_a_ratio_that_is_undefined_keeps_the_strictness_of_its_rule(sign, verdict):
    ratio = _metric(None, note="undefined", fallback=Fallback("a.difference", 0.5))
    other = _metric(0.5, 0.5, 0.5, name="a.difference")
    assert _decide(f"a.b{sign}2", ratio, other).verdict is verdict


@pytest.mark.parametrize(("strict", "within", "beyond"), [(True, 1.0, 0.0), (False, 0.0, 1.0)])
def test_the_evidence_of_a_value_without_spread_at_the_limit_is_certain(strict, within, beyond):
    ci = Interval(2.0, 2.0, 0.95, "no spread")
    exact = sample(lambda s: s["x"] / s["n"], {"x": np.full(9, 2.0), "n": np.ones(9)})
    for sampled in (None, exact):
        found = evidence(2.0, ci, (-math.inf, 2.0), sampled=sampled, strict=strict)
        assert found is not None
        assert (found.p_within, found.p_beyond) == (within, beyond)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_is_an_error_never_a_pass(value):
    assert _decide("a.b<=2", _metric(value)).verdict is Verdict.ERROR


def test_an_interval_that_is_no_number_is_never_a_pass():
    found = _decide("a.b<=2", _metric(1.0, math.nan, math.nan))
    assert found.verdict is Verdict.ERROR


def test_a_missing_metric_is_an_error_that_names_it():
    found = _decide("a.b<=2", _metric(1.0, name="a.c"))
    assert found.verdict is Verdict.ERROR
    assert "a.b was not reported" in found.sentence
    assert found.observed is None


def test_an_undefined_metric_without_a_fallback_is_an_error_with_its_reason():
    found = _decide("a.b<=2", _metric(None, note="undefined: too small"))
    assert found.verdict is Verdict.ERROR
    assert "undefined: too small" in found.sentence


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-1e-5, 9e-5, Verdict.PASS),
        (-1e-5, 2e-4, Verdict.INCONCLUSIVE),
        (2e-4, 3e-4, Verdict.FAIL),
    ],
)
def test_an_undefined_ratio_is_decided_by_the_difference_that_stands_in(low, high, verdict):
    ratio = _metric(None, note="undefined: below 0.0001", fallback=Fallback("a.d", 1e-4))
    found = _decide("a.b<=2", ratio, _metric((low + high) / 2, low, high, name="a.d"))
    assert found.verdict is verdict
    assert found.metric == "a.d"
    assert "a.b is undefined" in found.sentence


def test_a_fallback_that_is_missing_is_an_error():
    ratio = _metric(None, note="undefined", fallback=Fallback("a.d", 1e-4))
    assert _decide("a.b<=2", ratio).verdict is Verdict.ERROR


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_fallback_that_is_no_number_is_an_error(value):
    ratio = _metric(None, note="undefined", fallback=Fallback("a.d", 1e-4))
    assert _decide("a.b<=2", ratio, _metric(value, name="a.d")).verdict is Verdict.ERROR


def test_one_sequence_is_inconclusive():
    found = _decide("a.b<=2", _metric(1.0, n=1))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "rests on one sequence" in found.sentence


def test_zero_sequences_are_never_a_pass():
    assert _decide("a.b<=2", _metric(0.0, n=0)).verdict is not Verdict.PASS


def test_a_metric_without_interval_is_decided_by_its_value():
    assert _decide("a.b<=2", _metric(1.0)).verdict is Verdict.PASS
    assert _decide("a.b<=2", _metric(3.0)).verdict is Verdict.FAIL


def test_twice_the_distance_would_need_three_times_more_sequences():
    """Half-widths shrink with √n: a half-width twice the distance needs 4n, 3n of them new."""
    found = _decide("a.b<=2", _metric(1.5, 0.5, 2.5, n=100))
    assert "About 300 more sequences would settle it." in found.sentence


@given(st.floats(0.01, 0.99), st.integers(2, 10_000))
def test_further_sequences_bring_the_interval_to_the_limit(value, n):
    found = _decide("a.b<=1", _metric(value, value - 1, value + 1, n=n))
    needed = n / (1 - value) ** 2 - n
    if needed > min(100_000, 100 * n) + 1:
        assert "Not by more data" in found.sentence
        return
    assume(needed < min(100_000, 100 * n) - 1)
    more = int(found.sentence.split("About ")[1].split(" more")[0].replace(",", ""))
    half = (n / (n + more)) ** 0.5
    assert value + half <= 1 + 1e-6
    assert more == 1 or value + (n / (n + more - 2)) ** 0.5 > 1 - 1e-6


def test_a_value_at_the_limit_would_never_be_settled():
    found = _decide("a.b<=2", _metric(2.0, 1.5, 2.5))
    assert "Not by more data: the value is too near the limit." in found.sentence


@pytest.mark.parametrize(
    ("half", "n", "text"),
    [
        (0.5, 8, "About 192 more sequences"),
        (1.0, 8, "About 792 more sequences"),
        (1.01, 8, "Not by more data"),
        (1.0, 1_000, "About 99,000 more sequences"),
        (1.01, 1_000, "Not by more data"),
        (0.5, 16_384, "Not by more data"),
        (547.0, 64, "Not by more data"),
    ],
)
def test_more_data_than_anybody_measures_is_no_advice(half, n, text):
    """A hundred times the present number, or a hundred thousand."""
    found = _decide("a.b<=2", _metric(1.9, 1.9 - half, 1.9 + half, n=n))
    assert text in found.sentence


@given(st.integers(0, 60), st.integers(1, 60), st.floats(0, 4))
def test_too_few_documents_decide_neither_pass_nor_fail(documents, least, value):
    gate = _decide("a.b<=2", _metric(value, value - 0.5, value + 0.5))
    found = by_enough(gate, documents=documents, least=least)
    if documents >= least:
        assert found is gate
        return
    assert found.verdict is Verdict.INCONCLUSIVE
    assert (found.observed, found.ci, found.rule) == (gate.observed, gate.ci, gate.rule)
    assert f"rests on {documents} independent document" in found.sentence
    assert f"{least} are needed: {least - documents} more." in found.sentence


def test_what_no_value_decided_stays_as_it_is_with_few_documents():
    undefined = _metric(None, note="undefined: too small")
    for metrics in ((undefined,), (_metric(math.nan),), ()):
        gate = _decide("a.b<=2", *metrics)
        assert by_enough(gate, documents=1, least=30) is gate


def test_both_limits_straddled_ask_for_the_larger_number():
    found = _decide("a.b in [1,2]", _metric(1.5, 0.5, 2.75, n=100))
    assert "About 525 more" in found.sentence


def test_a_result_carries_the_rules_reason_where_there_is_one():
    metrics = {"a.b": _metric(1.0, 0.9, 1.1)}
    assert decide(parse_rule("a.b<=2", why="because"), metrics).why == "because"
    assert decide(parse_rule("a.b<=2"), metrics).why is None


def test_the_worst_of_nothing_is_refused():
    with pytest.raises(ValueError, match="empty"):
        worst([])
