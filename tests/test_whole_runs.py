"""A run is fit for release only where every deciding case of every SAE was judged."""

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from runs import make_case, make_run

from saebench.errors import OptionError
from saebench.judging.record import merge_runs
from saebench.records.run import Unjudged
from saebench.records.verdict import Verdict
from saebench.report.exports.junit import to_junit
from saebench.report.exports.model_card import to_model_card
from saebench.report.markdown import to_markdown
from saebench.report.material import joined_runs
from saebench.report.page.meaning import PROMISES
from saebench.report.page.run_page import run_page
from saebench.report.terminal import render, unjudged_line
from saebench.store.json_files import read_run, write_record

LEFT_OUT = Unjudged("kl_gap@one", "one", "kl_gap")


@pytest.fixture
def whole(gate_run, monkeypatch):
    """Runs where only the fixture's four properties decide, so that a run of them is whole."""
    monkeypatch.delenv("SAEBENCH_ALLOW_PARTIAL")

    def run(*args):
        return gate_run.judge("--sae", gate_run.tiny.good, *gate_run.only(), *args)

    return run


def _status(gate_run):
    run = gate_run.result()["run"]
    return run["status"], run["complete"]


def _left_out(gate_run):
    return {each["property"] for each in gate_run.result()["run"]["unjudged"]}


def test_a_run_of_every_deciding_property_passes(gate_run, whole):
    assert whole().ret == pytest.ExitCode.OK
    assert _status(gate_run) == ("PASS", True)


def test_a_selection_is_incomplete_and_says_what_it_left_out(gate_run, whole):
    done = whole("-k", "sparsity")
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    assert _status(gate_run) == ("INCOMPLETE", False)
    assert _left_out(gate_run) == {"fidelity", "kl_gap", "shrinkage"}
    done.stdout.fnmatch_lines(
        ["*good  INCOMPLETE*", "*fidelity*not judged*", "INCOMPLETE: not judged: *fidelity*"]
    )
    assert "fit for release" not in done.stdout.str().lower()


def test_so_are_a_projects_own_selection_and_deselected_cases(gate_run, whole):
    gate_run.pytester.makepyprojecttoml('[tool.pytest.ini_options]\naddopts = "-k sparsity"\n')
    assert whole().ret == pytest.ExitCode.TESTS_FAILED
    assert _status(gate_run) == ("INCOMPLETE", False)
    gate_run.pytester.makepyprojecttoml("[tool.pytest.ini_options]\n")
    done = whole("--deselect", "benchmarks/test_fidelity.py")
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    assert _left_out(gate_run) == {"fidelity"}


HOOKS = {
    "skipped": 'item.add_marker(pytest.mark.skip(reason="later"))',
    "never run": "item.runtest = lambda: None",
}


@pytest.mark.parametrize("kind", HOOKS)
def test_a_case_that_a_conftest_takes_away_is_left_out(gate_run, whole, kind):
    gate_run.pytester.makeconftest(
        "import pytest\ndef pytest_collection_modifyitems(items):\n"
        f"    for item in items:\n        if 'fidelity' in item.name:\n            {HOOKS[kind]}\n"
    )
    assert whole().ret == pytest.ExitCode.TESTS_FAILED
    assert _left_out(gate_run) == {"fidelity"}


def test_a_failure_that_is_expected_fails_the_run_all_the_same(gate_run, whole):
    gate_run.pytester.makeconftest(
        "import pytest\ndef pytest_collection_modifyitems(items):\n"
        "    for item in items:\n        item.add_marker(pytest.mark.xfail)\n"
    )
    done = whole("--sae-fail-on", "fidelity.kl<=1e-9")
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    assert _status(gate_run) == ("FAIL", True)


def test_a_run_that_judges_nothing_at_all_does_not_end_well(whole):
    assert whole("--setup-plan").ret == pytest.ExitCode.TESTS_FAILED
    assert whole("--collect-only").ret == pytest.ExitCode.OK


def test_an_interrupt_after_two_cases_leaves_the_others_out(gate_run, tiny):
    gate_run.pytester.makeconftest(
        "seen = []\ndef pytest_runtest_logfinish(nodeid):\n    seen.append(nodeid)\n"
        "    if len(seen) == 2:\n        raise KeyboardInterrupt\n"
    )
    done = gate_run.pytester.runpytest_subprocess(
        "benchmarks", "--sae", tiny.good, *tiny.options(), *gate_run.only(),
        "--sae-json", str(gate_run.json),
    )  # fmt: skip
    assert done.ret == pytest.ExitCode.INTERRUPTED
    assert _status(gate_run) == ("INCOMPLETE", False)
    assert _left_out(gate_run)


def test_an_sae_that_is_not_selected_is_left_out_too(gate_run, whole, tiny):
    done = whole("--sae", tiny.bad, "-k", "good")
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    assert {each["sae"] for each in gate_run.result()["run"]["unjudged"]} == {"bad"}
    assert read_run(gate_run.json).verdict_of("good") is Verdict.PASS


def test_a_part_may_be_looked_at_where_that_is_said_and_stays_incomplete(gate_run, whole):
    done = whole("-k", "sparsity", "--sae-allow-partial", "--sae-html", "out.html")
    assert done.ret == pytest.ExitCode.OK
    assert _status(gate_run) == ("INCOMPLETE", False)
    assert gate_run.result()["run"]["allows_partial"] is True
    page = (gate_run.pytester.path / "out.html").read_text(encoding="utf-8")
    assert "<title>INCOMPLETE · good · saebench</title>" in page
    assert "fit for release" not in page.lower()


def test_a_failure_among_the_selected_is_still_one(gate_run, whole):
    done = whole("-k", "fidelity", "--sae-allow-partial", "--sae-fail-on", "fidelity.kl<=1e-9")
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    assert _status(gate_run)[0] == "FAIL"


def test_baselines_are_not_stored_from_a_part(gate_run, whole):
    done = whole("-k", "sparsity", "--sae-allow-partial", "--sae-update-baselines")
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    done.stdout.fnmatch_lines(["ERROR: baselines not updated: not judged: *"])
    assert not (gate_run.pytester.path / "baselines").exists()


def test_a_property_whose_gates_decide_nothing_may_be_left_out(gate_run, whole):
    args = ("-k", "not kl_gap", "--sae-thresholds")
    assert whole(*args, gate_run.only("fidelity", "shrinkage", "sparsity")[1]).ret == 0
    assert _status(gate_run) == ("PASS", True)


def test_what_a_patch_costs_is_asked_for_where_a_patch_is_applied(gate_run, tiny, monkeypatch):
    monkeypatch.delenv("SAEBENCH_ALLOW_PARTIAL")
    gate_run.judge("--sae", tiny.good, "-k", "sparsity")
    assert "tax" not in _left_out(gate_run)
    gate_run.judge("--sae", tiny.good, "-k", "sparsity", "--sae-host-patch")
    assert "tax" in _left_out(gate_run)


@pytest.mark.usefixtures("few_documents_decide_in_processes")
def test_workers_that_share_the_cases_are_whole_together(gate_run, whole, tiny):
    pytest.importorskip("xdist")
    assert whole("--sae", tiny.bad, "-n", "2", "-k", "not kl_gap").ret == 1
    assert _left_out(gate_run) == {"kl_gap"}
    assert {each["sae"] for each in gate_run.result()["run"]["unjudged"]} == {"good", "bad"}
    assert whole("-n", "2").ret == pytest.ExitCode.OK
    assert _status(gate_run) == ("PASS", True)


def _run(*cases, unjudged=(LEFT_OUT,), **changed):
    run = make_run(*(cases or (make_case("one", "fidelity", Verdict.PASS),)))
    return replace(run, run=replace(run.run, unjudged=unjudged, complete=False, **changed))


def test_the_verdict_is_incomplete_unless_something_failed():
    assert _run().verdict is Verdict.INCOMPLETE
    assert _run().verdict_of("one") is Verdict.INCOMPLETE
    assert not _run().passed
    assert _run(allows_partial=True).passed
    assert _run(allows_partial=True).verdict is Verdict.INCOMPLETE
    assert _run(make_case("one", "fidelity", Verdict.FAIL)).verdict is Verdict.FAIL
    assert _run(make_case("one", "fidelity", Verdict.INCONCLUSIVE)).verdict is Verdict.INCOMPLETE
    assert _run(unjudged=()).verdict is Verdict.PASS


def test_nothing_that_is_published_says_pass():
    run = _run()
    heading = "## saebench: 🚧 INCOMPLETE\n\n0 of 1 SAEs passed. Not judged: kl"
    assert to_markdown(run).startswith(heading)
    for text in (render(run), run_page(run), to_markdown(run)):
        assert "fit for release" not in text.lower()
        assert "kl_gap" in text.replace("\\", "")
    with pytest.raises(OptionError, match="INCOMPLETE: not judged: kl_gap of one; judge every"):
        to_model_card(run)
    with pytest.raises(OptionError, match="INCOMPLETE"):
        to_model_card(_run(allows_partial=True))
    suite = ET.fromstring(to_junit(run))[0]
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert suite[-1].get("name") == "whole run"


def test_an_older_result_does_not_know_whether_it_was_whole(tmp_path):
    path = tmp_path / "run.json"
    write_record(_run(unjudged=()), path)
    content = json.loads(path.read_text())
    assert read_run(path).verdict is Verdict.PASS
    del content["run"]["unjudged"], content["run"]["allows_partial"]
    path.write_text(json.dumps(content | {"schema_version": 6}))
    run = read_run(path)
    assert run.run.unjudged is None
    assert run.verdict is Verdict.INCOMPLETE
    assert "an older version wrote this" in unjudged_line(run)


def test_of_several_processes_only_what_none_judged_is_left_out():
    first = _run(make_case("one", "fidelity", Verdict.PASS), unjudged=(LEFT_OUT,))
    other = Unjudged("fidelity@one", "one", "fidelity")
    second = _run(make_case("one", "kl_gap", Verdict.PASS), unjudged=(other,))
    merged = merge_runs([first, second], announced=["fidelity@one", "kl_gap@one"])
    assert merged.run.unjudged == ()
    assert (merged.run.status, merged.run.complete) == ("PASS", True)
    assert merge_runs([first]).run.unjudged == (LEFT_OUT,)


def test_a_report_of_two_results_keeps_what_each_left_out():
    joined = joined_runs([_run(), _run()], ["a", "b"])
    assert [each.sae for each in joined.run.unjudged] == ["one (a)", "one (b)"]
    assert joined.verdict_of("one (a)") is Verdict.INCOMPLETE


def test_the_documentation_and_the_report_say_the_same_of_a_pass():
    page = (Path(__file__).parents[1] / "docs" / "what-pass-means.md").read_text(encoding="utf-8")
    report = run_page(_run(unjudged=()))
    for row in PROMISES:
        assert f"| {' | '.join(row)} |" in page
    assert "What this PASS means" in report
    assert "What a PASS would mean" in run_page(_run())
    assert "docs/what-pass-means.md" in report
