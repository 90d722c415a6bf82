"""Plugins that run a test again: a case is in the results once, as it was decided last."""

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Gate

# As pytest-rerunfailures does: the whole protocol of a test, with reports of each try.
AGAIN = """
import pytest
from _pytest.runner import runtestprotocol

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    for last in (False, False, True):
        for report in runtestprotocol(item, nextitem=nextitem, log=False):
            if report.failed and not last:
                report.outcome = "rerun"
            item.ihook.pytest_runtest_logreport(report=report)
    return True
"""
# As pytest-repeat does: each test several times, by a parameter of its own.
REPEAT = """
import pytest

@pytest.fixture(autouse=True)
def __again(request):
    return None

def pytest_generate_tests(metafunc):
    metafunc.fixturenames.append("_step")
    metafunc.parametrize("_step", range(2))

@pytest.fixture
def _step(request):
    return request.param
"""


def _cases(gate_run: "Gate") -> list[str]:
    return [case["id"] for case in gate_run.result()["cases"]]


def _entries(path) -> list[list[str]]:
    """Return the verdicts in each entry of a JUnit file."""
    cases = ET.parse(path).getroot().iter("testcase")
    return [
        [p.get("value", "") for p in case.iter("property") if p.get("name") == "saebench_verdict"]
        for case in cases
    ]


def test_a_failed_case_that_was_run_three_times_is_there_once(gate_run: "Gate"):
    gate_run.pytester.makeconftest(AGAIN)
    junit = gate_run.pytester.path / "run.xml"
    options = ("--sae", gate_run.tiny.bad, "-k", "shrinkage or sparsity",
               *gate_run.only("shrinkage", "sparsity"))  # fmt: skip
    done = gate_run.judge(*options, "--junitxml", str(junit))
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    assert _cases(gate_run) == ["shrinkage@bad", "sparsity@bad"]
    assert gate_run.result()["run"]["complete"] is True
    assert sorted(_entries(junit)) == [["FAIL"], ["PASS"]]
    assert done.stdout.str().count(" sparsity.l0 ") == 1


def test_the_real_plugin_leaves_each_case_once(gate_run: "Gate"):
    pytest.importorskip("pytest_rerunfailures")
    junit = gate_run.pytester.path / "run.xml"
    options = ("--sae", gate_run.tiny.bad, "-k", "shrinkage", "--reruns", "2")
    gate_run.judge(*options, "--junitxml", str(junit))
    assert _cases(gate_run) == ["shrinkage@bad"]
    assert _entries(junit) == [["FAIL"]]


def test_a_case_that_is_repeated_by_a_parameter_is_there_once(gate_run: "Gate"):
    gate_run.pytester.makeconftest(REPEAT)
    done = gate_run.judge("--sae", gate_run.tiny.good, "-k", "sparsity", *gate_run.only("sparsity"))
    assert done.ret == 0, done.stdout.str()
    done.assert_outcomes(passed=2, deselected=8)
    assert _cases(gate_run) == ["sparsity@good"]
    assert gate_run.result()["run"]["complete"] is True
