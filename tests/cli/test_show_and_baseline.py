"""saebench show, and saebench baseline."""

import io
import sys

import pytest

from saebench.records.run import SCHEMA_VERSION


def test_show_prints_the_tables_and_the_reasons(project, saebench):
    said = saebench("show", "run.json")
    assert said.code == 0
    assert "one FAIL standard, 32 features, blocks.0.hook_resid_pre" in said.out
    assert "FAIL fidelity@one: fidelity.kl said so." in said.out
    assert "d: 64 sequences of 12 tokens, seed 0" in said.out
    assert said.out.index("one FAIL") < said.out.index("two PASS")


def test_show_of_one_sae_shows_that_one(project, saebench):
    said = saebench("show", "run.json", "--sae", "two")
    assert "two PASS" in said.out
    assert "one FAIL" not in said.out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("none.json",), "none.json: No such file"),
        ((".",), "Is a directory"),
        (("run.json", "--sae", "thr"), "--sae thr: not in this result file; known: one, two"),
        ((), "required: RUN.json"),
    ],
)
def test_show_of_what_is_not_there_ends_with_4(project, saebench, arguments, expected):
    said = saebench("show", *arguments)
    assert (said.code, said.out) == (4, "")
    assert expected in said.err


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "not valid JSON"),
        ("", "not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"schema_version": NaN}', "NaN is no number of JSON"),
        ("[1]", "schema_version is None"),
        ({"schema_version": 99}, f"schema_version is 99, this saebench reads {SCHEMA_VERSION}"),
        ({"schema_version": 2}, "run: Field required"),
        ({"schema_version": True}, "schema_version is True"),
    ],
)
def test_show_of_a_file_that_is_no_result_ends_with_4(
    project, saebench, odd_json, content, expected
):
    said = saebench("show", odd_json(content))
    assert (said.code, said.out) == (4, "")
    assert expected in said.err


def test_a_baseline_is_no_result_file_and_is_called_so(project, saebench):
    (path,) = project.glob("baselines/*/*/good@*.json")
    said = saebench("show", path)
    assert said.code == 4
    assert "good@" in said.err


def test_list_shows_every_baseline(project, saebench):
    said = saebench("baseline", "list")
    assert said.out.startswith("4 baselines in baselines")
    assert all(f"{name}@" in said.out for name in ("good", "bad", "elsewhere", "othertext"))


def test_list_of_an_empty_directory_is_empty(tmp_path, saebench):
    said = saebench("baseline", "list", "--baselines", tmp_path)
    assert (said.code, said.out.split()[0]) == (0, "0")


def test_show_of_a_baseline_gives_its_metrics(project, saebench):
    said = saebench("baseline", "show", "good")
    assert "topk, 32 features, toy · blocks.1.hook_resid_pre" in said.out
    assert "kl_gap.ratio[eps_random]" in said.out
    assert said.out.count(" 48") == 4


def test_check_says_what_is_wrong_and_ends_with_1(project, saebench):
    assert saebench("baseline", "check").code == 0
    (sums,) = project.glob("baselines/*/*/good@*.npz")
    sums.write_bytes(sums.read_bytes()[:-5])
    next(project.glob("baselines/*/*/bad@*.json")).unlink()
    said = saebench("baseline", "check")
    assert said.code == 1
    assert "per-sequence sums were altered" in said.out
    assert "sums of no baseline; remove the file" in said.out
    assert "2 problems" in said.out


def test_check_finds_two_baselines_of_one_sae(project, saebench):
    (path,) = project.glob("baselines/*/*/good@*.json")
    path.with_name("copy@00000000.json").write_text(path.read_text())
    said = saebench("baseline", "check")
    assert said.code == 1
    assert "both of the SAE" in said.out


def test_rm_removes_one_and_reminds_of_the_leaderboard(project, saebench):
    saebench("leaderboard", "build")
    said = saebench("baseline", "rm", "good", "--yes")
    assert said.code == 0
    assert "then: saebench leaderboard build" in said.out
    assert not list(project.glob("baselines/*/*/good@*"))
    assert len(list(project.glob("baselines/*/*/*.json"))) == 3


def test_rm_without_a_terminal_and_without_yes_removes_nothing(project, saebench, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    said = saebench("baseline", "rm", "good")
    assert said.code == 4
    assert "pass --yes" in said.err
    assert list(project.glob("baselines/*/*/good@*.json"))


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1), ("", 1), ("yess\n", 1)])
def test_rm_asks_where_there_is_someone_to_ask(project, saebench, monkeypatch, answer, code):
    stdin = io.StringIO(answer)
    monkeypatch.setattr(stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdin", stdin)
    assert saebench("baseline", "rm", "good").code == code
    assert bool(list(project.glob("baselines/*/*/good@*.json"))) == bool(code)


def test_rm_of_what_is_not_there_ends_with_4_with_the_nearest(project, saebench):
    said = saebench("baseline", "rm", "goood", "--yes")
    assert said.code == 4
    assert "did you mean 'good'?" in said.err


def test_a_baseline_of_the_installed_package_is_never_removed(project, saebench, monkeypatch):
    monkeypatch.setattr("saebench.store.environment._SHIPPED", project.resolve())
    said = saebench("baseline", "rm", "good", "--yes")
    assert said.code == 4
    assert list(project.glob("baselines/*/*/good@*.json"))
