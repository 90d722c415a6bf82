"""The files that a run writes."""

import os

import numpy as np
import pytest
from runs import make_case, make_run

from saebench.errors import OptionError, StoreError
from saebench.judging.outputs import Outputs
from saebench.records.run import Verdict
from saebench.report.markdown import to_markdown
from saebench.store.json_files import read_run
from saebench.store.sums_file import CaseSums, RunSums, read_sums

RUN = make_run(make_case("one", "fidelity", Verdict.FAIL))


def test_each_file_that_was_asked_for_is_written(tmp_path):
    paths = {name: tmp_path / f"out.{name}" for name in ("json", "md")}
    outputs = Outputs(**paths)
    outputs.check()
    outputs.write(RUN, places=["one: is 1st of 2"])
    assert read_run(tmp_path / "out.json") == RUN
    assert (tmp_path / "out.md").read_text() == to_markdown(RUN, places=["one: is 1st of 2"])
    assert list(outputs.lines()) == [f"results: {paths['json']}", f"summary: {paths['md']}"]


def test_the_sums_go_beside_the_result_file_and_nowhere_else(tmp_path):
    sums = RunSums({"fidelity@one": CaseSums("f" * 8, {"sae.kl": np.ones(3)})})
    Outputs(md=tmp_path / "out.md").write(RUN, sums=sums)
    assert os.listdir(tmp_path) == ["out.md"]
    Outputs(json=tmp_path / "out.json").write(RUN, sums=sums)
    found = read_sums(tmp_path / "out.json", RUN).cases["fidelity@one"]
    assert found.table["sae.kl"].tolist() == [1, 1, 1]


def test_a_place_where_the_sums_cannot_be_written_is_refused_beforehand(tmp_path):
    (tmp_path / "out.sums.npz").mkdir()
    with pytest.raises(OptionError, match=r"--sae-json.*out\.sums\.npz: cannot be written"):
        Outputs(json=tmp_path / "out.json").check()


def test_nothing_is_written_where_nothing_was_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Outputs().write(RUN)
    assert os.listdir(tmp_path) == []


def test_the_jobs_page_keeps_what_other_steps_wrote(tmp_path, monkeypatch):
    page = tmp_path / "page"
    page.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    Outputs().write(RUN)
    assert page.read_text() == "before\n" + to_markdown(RUN)


def test_a_page_that_would_be_too_long_is_cut_to_the_overview(tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "page"))
    monkeypatch.setattr("saebench.judging.outputs.PAGE_BYTES", 100)
    Outputs().write(RUN)
    assert (tmp_path / "page").read_text() == to_markdown(RUN, detailed=False)


def test_a_page_that_cannot_be_written_is_a_note_and_the_files_are_written(tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "none" / "page"))
    outputs = Outputs(md=tmp_path / "out.md")
    outputs.write(RUN)
    assert (tmp_path / "out.md").exists()
    assert "note: $GITHUB_STEP_SUMMARY was not written" in list(outputs.lines())[-1]


@pytest.mark.parametrize("option", ["json", "md"])
def test_a_place_that_cannot_be_written_is_refused_by_its_option_beforehand(tmp_path, option):
    with pytest.raises(OptionError, match=rf"--sae-{option} .*: cannot be written"):
        Outputs(**{option: tmp_path}).check()
    assert os.listdir(tmp_path) == []


def test_a_place_that_became_unwritable_is_a_store_error(tmp_path):
    outputs = Outputs(md=tmp_path / "file" / "out.md")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be written"):
        outputs.write(RUN)
