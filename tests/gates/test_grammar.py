"""The language of rules."""

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saebench.errors import ThresholdError
from saebench.gates.rules import Relative
from saebench.gates.thresholds import parse_rule
from saebench.properties import metric_names

METRICS = st.sampled_from(sorted(metric_names()))
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
SPACES = st.sampled_from(["", " ", "  "])


@given(METRICS, st.sampled_from(["<=", ">=", "<", ">"]), NUMBERS, SPACES)
def test_every_bound_that_is_written_is_read_back(metric, sign, limit, space):
    rule = parse_rule(f"{space}{metric}{space}{sign}{space}{limit!r}{space}")
    assert rule.metric == metric
    assert (rule.high if sign[0] == "<" else rule.low) == limit
    assert math.isinf(rule.low if sign[0] == "<" else rule.high)
    assert rule.strict is (sign in ("<", ">"))


@given(METRICS, NUMBERS, NUMBERS)
def test_every_range_that_is_written_is_read_back(metric, one, other):
    low, high = sorted([one, other])
    rule = parse_rule(f"{metric} in [{low!r}, {high!r}]")
    assert (rule.metric, rule.low, rule.high) == (metric, low, high)


@given(METRICS)
def test_a_rule_is_about_the_property_of_its_metric(metric):
    assert parse_rule(f"{metric}<=1").about == metric.split(".")[0]


@given(st.text(max_size=30))
def test_any_text_is_a_rule_or_an_error_of_ours(text):
    with contextlib.suppress(ThresholdError):
        assert parse_rule(text).text == text


@pytest.mark.parametrize(
    ("text", "caret", "expected"),
    [
        ("fidelity.kl = 1", 12, "<=, <, >=, >, in [a,b] or :"),
        ("fidelity.kl", 11, "<=, <, >=, >, in [a,b] or :"),
        ("fidelity.kl<=", 13, "a number"),
        ("fidelity.kl<=nan", 13, "a number"),
        ("fidelity.kl<=one", 13, "a number"),
        ("fidelity.kl in [1,", 16, "a number pair and ]"),
        ("kl<=1", 0, "a metric such as fidelity.kl"),
        ("", 0, "a metric such as fidelity.kl"),
        ("fidelity.kl<=1 2", 15, "the end"),
        ("fidelity.kl<=1<=2", 14, "the end"),
        ("fidelity.kl<control.", 12, "control.NAME"),
        ("fidelity.kl<control.random_init*", 32, "a number"),
        ("fidelity.kl<control.random_init 2", 32, "* and a number"),
        ("fidelity.kl<control.random_init*2 3", 34, "the end"),
        ("fidelity.kl:5%", 12, "+ or -"),
    ],
)
def test_the_caret_points_at_what_is_not_understood(text, caret, expected):
    with pytest.raises(ThresholdError) as caught:
        parse_rule(text)
    said, shown, pointer = str(caught.value).splitlines()
    assert expected in said
    assert shown == f"  {text}"
    assert pointer == "  " + " " * caret + "^"


@pytest.mark.parametrize("text", ["fidelity.kl<=1e999", "fidelity.kl>=-1e999", "a.b in [0,1e999]"])
def test_a_limit_beyond_every_number_is_refused_because_nothing_could_fail_it(text):
    with pytest.raises(ThresholdError, match="1e999"):
        parse_rule(text)


def test_an_empty_range_is_refused():
    with pytest.raises(ThresholdError, match="the range is empty, 2 is above 1") as caught:
        parse_rule("fidelity.kl in [2,1]")
    assert str(caught.value).splitlines()[-1].index("^") == 2 + len("fidelity.kl in [")


@given(METRICS, st.sampled_from(["<", "<=", ">", ">="]), st.floats(0.01, 100))
def test_every_limit_by_a_control_is_read_back(metric, sign, factor):
    rule = parse_rule(f"{metric}{sign}control.random_init * {factor!r}")
    assert rule.relative == Relative("random_init", factor, sign)
    assert rule.strict is (sign in ("<", ">"))
    assert rule.metric == metric


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a.b<=2", "≤ 2"),
        ("a.b>=0.5", "≥ 0.5"),
        ("a.b in [0.8,1.1]", "0.8 … 1.1"),
        ("a.b<2", "< 2"),
        ("a.b>0.5", "> 0.5"),
        ("a.b>control.other_layer", "> other_layer"),
    ],
)
def test_a_limit_is_shown_without_its_metric(text, shown):
    assert parse_rule(text).limit == shown
