"""A directory that is there whole, or not at all."""

import os
from pathlib import Path

import pytest

from saebench.errors import StoreError
from saebench.store.atomic import new_directory


def _write(path, content="new", *, broken=False):
    with new_directory(path) as staged:
        (staged / "file").write_text(content)
        if broken:
            raise ZeroDivisionError
        (staged / "inner").mkdir()
        (staged / "inner" / "file").write_text(content)


def _only(directory):
    return sorted(os.listdir(directory))


def test_nothing_is_there_before_all_is(tmp_path):
    with new_directory(tmp_path / "deep" / "out") as staged:
        (staged / "file").write_text("new")
        assert not (tmp_path / "deep" / "out").exists()
    assert _only(tmp_path / "deep") == ["out"]
    assert (tmp_path / "deep" / "out" / "file").read_text() == "new"


def test_an_older_directory_is_replaced_whole_and_nothing_is_left_beside(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "stale").write_text("old")
    _write(tmp_path / "out")
    assert _only(tmp_path) == ["out"]
    assert _only(tmp_path / "out") == ["file", "inner"]


def test_an_error_within_leaves_the_older_directory(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    with pytest.raises(ZeroDivisionError):
        _write(tmp_path / "out", broken=True)
    assert _only(tmp_path) == ["out"]
    assert _only(tmp_path / "out") == ["old"]


def test_the_older_directory_is_put_back_where_the_new_one_cannot_take_its_place(
    tmp_path, monkeypatch
):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    rename = Path.rename

    def refuse_the_new_one(self, target):
        if (self / "file").exists():
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse_the_new_one)
    with pytest.raises(StoreError, match="out: cannot be written: No space left on device"):
        _write(tmp_path / "out")
    assert _only(tmp_path) == ["out"]
    assert _only(tmp_path / "out") == ["old"]


def test_a_link_is_replaced_and_what_it_points_to_is_left(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "old").write_text("old")
    (tmp_path / "out").symlink_to(tmp_path / "target")
    _write(tmp_path / "out")
    assert not (tmp_path / "out").is_symlink()
    assert _only(tmp_path / "target") == ["old"]
    assert _only(tmp_path) == ["out", "target"]


def test_a_parent_that_is_a_file_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(StoreError, match="cannot be written"):
        _write(tmp_path / "file" / "out")
    assert (tmp_path / "file").read_text() == "old"


def test_files_are_on_disk_before_the_directory_takes_its_place(tmp_path, monkeypatch):
    synced = set()
    monkeypatch.setattr(os, "fsync", lambda file: synced.add(os.fstat(file).st_ino))
    _write(tmp_path / "out")
    written = {p.stat().st_ino for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert written
    assert written <= synced
