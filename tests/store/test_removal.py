"""Removing baselines."""

from pathlib import Path

import pytest
from stored import store

from saebench.errors import StoreError
from saebench.store.leaderboard import orphans, remove_baseline


def _files(root):
    return sorted(path.name for path in root.rglob("*") if path.is_file())


def test_a_baseline_goes_with_its_sums_and_others_stay(tmp_path):
    store(tmp_path, "keep")
    before = _files(tmp_path)
    remove_baseline(store(tmp_path, "drop"))
    assert _files(tmp_path) == before


def test_directories_that_are_left_empty_go_too(tmp_path):
    remove_baseline(store(tmp_path, "only"))
    assert list(tmp_path.iterdir()) == []


def test_a_crash_between_the_two_files_leaves_no_baseline_but_sums_that_are_found(
    tmp_path, monkeypatch
):
    path = store(tmp_path, "drop")
    unlink = Path.unlink

    def failing(self, missing_ok=False):
        if self.suffix == ".npz":
            raise OSError(5, "Input/output error", str(self))
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", failing)
    with pytest.raises(StoreError, match="cannot be removed: Input/output error"):
        remove_baseline(path)
    assert not path.exists()
    assert [sums.suffix for sums in orphans(tmp_path)] == [".npz"]


def test_a_baseline_that_is_not_there_is_a_clear_error(tmp_path):
    with pytest.raises(StoreError, match="No such file"):
        remove_baseline(tmp_path / "m" / "h" / "none@0.json")


def test_sums_that_a_baseline_names_are_no_orphans(tmp_path):
    path = store(tmp_path, "keep")
    assert orphans(tmp_path) == []
    path.write_text("{")
    assert len(orphans(tmp_path)) == 1
