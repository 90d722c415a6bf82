"""What a run writes and says beside its result file: Markdown, the job's page, places."""

import shlex
from functools import partial
from xml.etree import ElementTree as ET

import pytest

from saebench.cli.stored import known_facts
from saebench.report.exports.junit import case_properties
from saebench.store.json_files import read_run
from saebench.store.leaderboard import build, write_leaderboard

QUICK = ("-k", "shrinkage or sparsity")


def test_a_markdown_summary_is_written_where_it_was_asked_for(gate_run, tiny):
    asked = ("--sae", tiny.good, *QUICK, *gate_run.only("shrinkage", "sparsity"))
    done = gate_run.judge(*asked, "--sae-md", "new/out.md")
    text = (gate_run.pytester.path / "new" / "out.md").read_text(encoding="utf-8")
    assert text.startswith("## saebench: ✅ PASS\n\n1 of 1 SAEs passed.")
    done.stdout.fnmatch_lines(["summary: new/out.md"])


def test_the_summarys_place_comes_from_the_environment_too(gate_run, tiny, monkeypatch):
    monkeypatch.setenv("SAEBENCH_MD", "env.md")
    gate_run.judge("--sae", tiny.good, "-k", "sparsity")
    assert (gate_run.pytester.path / "env.md").exists()


def test_the_jobs_page_is_written_without_being_asked_for(gate_run, tiny, monkeypatch):
    page = gate_run.pytester.path / "page.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    gate_run.judge("--sae", tiny.bad, *QUICK)
    assert page.read_text(encoding="utf-8").startswith("## saebench: ❌ FAIL")


def test_a_job_page_that_cannot_be_written_changes_no_verdict(gate_run, tiny, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "/proc/no/page")
    done = gate_run.judge("--sae", tiny.good, *QUICK)
    assert done.ret == 0
    done.stdout.fnmatch_lines(["note: $GITHUB_STEP_SUMMARY was not written: *"])


@pytest.mark.parametrize("path", ["/proc/no/out.md", "."])
def test_a_summary_that_cannot_be_written_is_refused_before_anything_is_measured(
    gate_run, tiny, path
):
    assert "--sae-md" in gate_run.refused("--sae", tiny.good, "-k", "sparsity", "--sae-md", path)


def test_a_run_that_judges_nothing_writes_no_summary(gate_run, tiny):
    gate_run.judge("--sae", tiny.good, "-k", "nothing", "--sae-md", "out.md")
    assert not (gate_run.pytester.path / "out.md").exists()


def test_junit_has_every_number_of_the_result_file(gate_run, tiny):
    gate_run.judge("--sae", tiny.good, *QUICK, "--junitxml=out.xml")
    found = {
        test.get("name"): [(p.get("name"), p.get("value")) for p in test.iter("property")]
        for test in ET.parse(gate_run.pytester.path / "out.xml").iter("testcase")
    }
    cases = read_run(gate_run.json).cases
    # Verdicts of secondary gates are known once all tests have ended.
    of_case = partial(case_properties, secondary=False)
    assert found == {f"test_{case.property}[good]": of_case(case) for case in cases}


def _with_leaderboard(gate_run, tiny):
    """Store both SAEs as baselines, and build the leaderboard of them."""
    gate_run.judge(
        "--sae", tiny.good, "--sae", tiny.bad, *gate_run.only(), "--sae-update-baselines"
    )
    root = gate_run.pytester.path / "baselines"
    write_leaderboard(build(root, known_facts()), root / "leaderboard.json")
    return root


def test_a_new_saes_place_is_printed_at_the_end_and_is_in_the_summary(gate_run, tiny):
    _with_leaderboard(gate_run, tiny)
    third = tiny.sae("middling", error=0.6)
    done = gate_run.judge("--sae", third, "--sae-md", "out.md")
    (line,) = [line for line in done.outlines if line.startswith("middling: would be ")]
    assert " on tiny-llama · blocks.1.hook_resid_pre by kl_gap.ratio[eps_random]" in line
    assert " of 3 " in line
    assert "would be" in (gate_run.pytester.path / "out.md").read_text(encoding="utf-8")


def test_an_sae_of_the_leaderboard_is_told_its_place(gate_run, tiny):
    _with_leaderboard(gate_run, tiny)
    done = gate_run.judge("--sae", tiny.good)
    done.stdout.fnmatch_lines(["good: is * of 2 * on tiny-llama*"])


def test_on_other_tokens_no_place_is_given(gate_run, tiny):
    _with_leaderboard(gate_run, tiny)
    done = gate_run.judge("--sae", tiny.good, "--sae-sequences", "10")
    done.stdout.fnmatch_lines(["1 SAE not placed on tiny-llama*other tokens or seeds"])


def test_a_damaged_leaderboard_is_a_note_and_changes_no_verdict(gate_run, tiny):
    root = gate_run.pytester.path / "baselines"
    root.mkdir()
    (root / "leaderboard.json").write_text("{")
    done = gate_run.judge("--sae", tiny.good, *QUICK)
    assert done.ret == 0
    done.stdout.fnmatch_lines(["note: no place on the leaderboard: *not valid JSON*"])


def test_without_a_leaderboard_of_its_own_a_project_is_not_placed_among_the_demo(gate_run, tiny):
    done = gate_run.judge("--sae", tiny.good)
    assert not [
        line for line in done.outlines if " not placed on " in line or line.startswith("good: ")
    ]


IN_THE_WAY = """
import pytest
from pathlib import Path
@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish():
    (Path(__file__).parent / "out.md").mkdir()
"""


def test_a_summary_that_fails_at_the_end_is_told_and_the_result_file_is_there(gate_run, tiny):
    gate_run.pytester.makeconftest(IN_THE_WAY)
    done = gate_run.judge("--sae", tiny.good, *QUICK, *gate_run.only("shrinkage", "sparsity"),
                          "--sae-md", "out.md")  # fmt: skip
    assert done.ret == pytest.ExitCode.INTERNAL_ERROR
    assert gate_run.result()["run"]["status"] == "PASS"
    assert "out.md: cannot be written: Is a directory" in done.stdout.str()


def test_a_page_is_written_where_it_was_asked_for_and_the_failure_can_be_measured_again(
    gate_run, tiny
):
    done = gate_run.judge("--sae", tiny.bad, *QUICK, "--sae-html", "new/out.html")
    text = (gate_run.pytester.path / "new" / "out.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert "shrinkage@bad" in text
    done.stdout.fnmatch_lines(
        [
            "measure again:",
            "  shrinkage@bad: pytest '*test_shrinkage.py::test_shrinkage[[]bad[]]' *",
        ]
    )


def test_the_printed_command_gives_the_same_number_again(gate_run, tiny):
    first = gate_run.judge("--sae", tiny.bad, *QUICK, "--sae-min-documents", "1")
    lines = iter(first.outlines)
    command = next(line for line in lines if line.startswith("  shrinkage@bad: pytest "))
    again = gate_run.pytester.runpytest_subprocess(*shlex.split(command)[2:])
    (reason,) = (line for line in first.outlines if line.startswith("FAIL: shrinkage"))
    assert again.ret == 1
    again.assert_outcomes(failed=1)
    assert reason in again.outlines


def test_a_page_that_cannot_be_written_is_told_before_anything_is_measured(gate_run, tiny):
    done = gate_run.judge("--sae", tiny.good, *QUICK, "--sae-html", "/proc/no/out.html")
    assert done.ret == 4
    done.stderr.fnmatch_lines(["*--sae-html /proc/no/out.html: cannot be written*"])
