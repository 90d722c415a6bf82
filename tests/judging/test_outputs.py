"""The files that a run writes."""

import errno
import os
import shutil
import subprocess

import numpy as np
import pytest
from runs import make_case, make_run

from saebench.errors import NotWritten, OptionError
from saebench.judging.outputs import Outputs
from saebench.records.verdict import Verdict
from saebench.report.markdown import to_markdown
from saebench.store import atomic
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


def test_a_place_that_became_unwritable_is_an_error(tmp_path):
    outputs = Outputs(md=tmp_path / "file" / "out.md")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(NotWritten, match="cannot be written"):
        outputs.write(RUN)


NAMES = ("json", "md", "html")


def _full_for(monkeypatch, *names: str) -> None:
    """Make the disk full for files whose names contain one of these, as a write meets it."""
    write = atomic._write_through

    def full(path, data):
        if any(name in path.name for name in names):
            path.write_bytes(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, data)

    monkeypatch.setattr(atomic, "_write_through", full)


@pytest.mark.parametrize("full", [*NAMES, "sums"])
def test_a_full_disk_keeps_no_other_file_back_and_is_said_of_the_right_one(
    full, tmp_path, monkeypatch
):
    _full_for(monkeypatch, f".{full}")
    paths = {name: tmp_path / f"out.{name}" for name in NAMES}
    outputs = Outputs(**paths)
    option = "json" if full == "sums" else full
    with pytest.raises(NotWritten, match=rf"^--sae-{option} .*No space left on device$"):
        outputs.write(RUN)
    written = [name for name in NAMES if name != option]
    assert [line.partition(": ")[2] for line in outputs.lines()] == [str(paths[n]) for n in written]
    there = {f"out.{name}" for name in written} | ({"out.sums.npz"} if option != "json" else set())
    assert set(os.listdir(tmp_path)) == there


@pytest.mark.parametrize("full", [".json", ".sums"])
def test_a_full_disk_leaves_the_older_result_and_its_sums(full, tmp_path, monkeypatch):
    outputs = Outputs(json=tmp_path / "out.json")
    outputs.write(RUN, sums=RunSums({"a@b": CaseSums("f" * 8, {"sae.kl": np.ones(3)})}))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    _full_for(monkeypatch, full)
    with pytest.raises(NotWritten):
        outputs.write(make_run(make_case("another", "fidelity", Verdict.PASS)))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert [*outputs.lines()] == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    done = shutil.which("mount") and subprocess.run(mount, capture_output=True, check=False)
    if not done or done.returncode:
        pytest.skip("mounting a file system takes root and Linux")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_on_a_disk_that_is_really_full_nothing_half_written_is_left(
    small_disk, tmp_path, monkeypatch
):
    page = small_disk / "page"
    page.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    (small_disk / "other").write_bytes(bytes(56 * 1024))
    outputs = Outputs(
        json=small_disk / "out.json", md=small_disk / "a.md", html=tmp_path / "a.html"
    )
    many = [make_case(f"sae-{i}", "fidelity", Verdict.PASS) for i in range(99)]
    with pytest.raises(NotWritten, match=r"--sae-json .*No space left.*--sae-md .*No space left"):
        outputs.write(make_run(*many))
    assert {p.name for p in small_disk.iterdir()} == {"page", "other"}
    assert page.read_text() == "before\n"
    report, note = outputs.lines()
    assert report == f"report: {tmp_path / 'a.html'}"
    assert "No space left on device" in note
