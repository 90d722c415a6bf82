"""``saebench report`` and ``leaderboard build --html``."""

import pytest
from full_run import full_run
from runs import make_case, make_run

from saebench.records.verdict import Verdict
from saebench.store.json_files import write_record


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "baselines").mkdir()
    write_record(full_run("a", "b"), tmp_path / "old.json")
    write_record(full_run("a", "b"), tmp_path / "new.json")
    write_record(make_run(make_case("one", "fidelity", Verdict.PASS)), tmp_path / "single.json")
    return tmp_path


def test_a_result_file_becomes_a_page(saebench, runs):
    said = saebench("report", "old.json", "-o", "deep/page.html")
    assert said.code == 0
    assert said.out.startswith("deep/page.html: 2 SAEs, ")
    assert (runs / "deep/page.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_the_same_file_gives_the_same_bytes(saebench, runs):
    saebench("report", "old.json", "-o", "1.html")
    saebench("report", "old.json", "-o", "2.html")
    assert (runs / "1.html").read_bytes() == (runs / "2.html").read_bytes()


def test_two_runs_are_compared_and_unpaired_rows_say_so(saebench, runs):
    saebench("report", "old.json", "new.json", "-o", "both.html", "--metric", "sparsity.l0")
    text = (runs / "both.html").read_text(encoding="utf-8")
    assert "Differences, the worst first" in text
    assert "sparsity.l0" in text
    assert "unpaired" in text
    assert "a (old)" in text


def test_only_the_named_sae_is_shown(saebench, runs):
    saebench("report", "old.json", "--sae", "b", "-o", "b.html")
    text = (runs / "b.html").read_text(encoding="utf-8")
    assert "kl_gap[scope=all]@b" in text
    assert "kl_gap[scope=all]@a" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere.json",), "nowhere.json: No such file"),
        (("old.json", "--sae", "c"), "--sae c: not in this result file"),
        (("old.json", "new.json", "--metric", "sparsity.l"), "--metric sparsity.l: unknown metric"),
        (("old.json", "-o", "."), "--output .: cannot be written"),
        (("old.json", "old.json"), "given twice"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_written(saebench, runs, arguments, message):
    said = saebench("report", *arguments)
    assert said.code == 4
    assert message in said.err
    assert not list(runs.glob("*.html"))


def test_figures_go_into_a_directory(saebench, runs):
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    said = saebench("report", "single.json", "--figures", "out", "--format", "svg")
    assert said.code == 0
    assert said.out.startswith("out: ")
    assert not list(runs.glob("*.html"))


def test_the_leaderboard_is_built_as_a_page_too(saebench, project):
    said = saebench("leaderboard", "build", "--html", "board.html")
    assert said.code == 0
    text = (project / "board.html").read_text(encoding="utf-8")
    assert "elsewhere" in text
    assert 'data-column="architecture"' in text
