"""JUnit XML."""

from xml.etree import ElementTree as ET

import pytest
from runs import make_case, make_run

from saebench.records.verdict import Verdict
from saebench.report.exports.junit import case_properties, to_junit


def _suite(run):
    return ET.fromstring(to_junit(run).encode()).find("testsuite")


def test_a_failure_an_error_and_a_pass_are_told_apart(mixed_run):
    suite = _suite(mixed_run)
    found = {t.get("name"): [c.tag for c in t if c.tag != "properties"] for t in suite}
    assert found == {
        "sparsity@one": [], "shrinkage@one": ["failure"], "kl_gap@one": ["error"],
        "fidelity@one": ["failure"], "fidelity@two": [],
    }  # fmt: skip
    counts = {k: int(suite.get(k)) for k in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": 5, "failures": 2, "errors": 1, "skipped": 0}


def test_a_skipped_case_is_skipped_with_its_reason():
    suite = _suite(make_run(make_case("one", "cloze", Verdict.SKIPPED, error="no prompts")))
    assert suite.find("testcase/skipped").get("message") == "SKIPPED: no prompts"


def test_numbers_are_read_back_exactly(mixed_run):
    (case,) = [c for c in mixed_run.cases if c.id == "fidelity@one"]
    found = dict(case_properties(case))
    (metric,) = [m for m in case.metrics if m.name == "fidelity.kl"]
    assert float(found["fidelity.kl"]) == metric.value
    low, high = map(float, found["fidelity.kl 95% CI"].split())
    assert (low, high) == (metric.ci.low, metric.ci.high)
    assert found["gate: fidelity.kl<=1"] == "FAIL"


def test_an_undefined_metric_has_no_property(mixed_run):
    names = [name for case in mixed_run.cases for name, _ in case_properties(case)]
    assert "fidelity.odd" not in names


def test_hostile_names_are_read_back_without_what_xml_cannot_hold(hostile_run, hostile_name):
    shown = hostile_name.replace("\x1b", "?")
    assert shown in dict(_properties(hostile_run))["saebench_sae"].replace("&#10;", "\n")


def _properties(run):
    return [(p.get("name"), p.get("value")) for p in _suite(run).iter("property")]


@pytest.mark.parametrize("character", ["\x00", "\x0b", "\ufffe", "\ud800"])
def test_a_character_that_xml_cannot_hold_breaks_nothing(character):
    run = make_run(make_case(f"a{character}b", "fidelity", Verdict.FAIL), saes=(f"a{character}b",))
    assert dict(_properties(run))["saebench_sae"] == "a?b"


def test_a_run_without_cases_is_an_empty_suite():
    assert _suite(make_run()).get("tests") == "0"
