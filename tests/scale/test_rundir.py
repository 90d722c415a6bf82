import json
import subprocess
import sys
from pathlib import Path

import pytest

from saebench.errors import OptionError, StoreError
from saebench.scale.rundir import RunDirectory


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    found = RunDirectory(tmp_path / "run")
    with found.held():
        pass
    return found


def test_what_was_written_is_read_and_nothing_else_is_there(directory: RunDirectory):
    directory.write("ab", b"one\ntwo\x00")
    assert directory.read("ab") == b"one\ntwo\x00"
    assert directory.has("ab")
    assert directory.read("cd") is None
    assert directory.damaged == []


@pytest.mark.parametrize("at", [0, 20, 60, -1])
def test_an_altered_byte_anywhere_makes_it_missing_and_is_told(directory: RunDirectory, at: int):
    directory.write("ab", b"measured " * 20)
    file = directory.file("ab")
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(bytes(data))
    assert directory.read("ab") is None
    assert directory.damaged == ["ab.shard"]


@pytest.mark.parametrize("length", [0, 10, 150])
def test_a_truncated_file_is_missing(directory: RunDirectory, length: int):
    directory.write("ab", b"measured " * 20)
    file = directory.file("ab")
    file.write_bytes(file.read_bytes()[:length])
    assert not directory.has("ab")


def test_a_whole_file_under_another_name_is_missing(directory: RunDirectory):
    directory.write("ab", b"x")
    directory.file("ab").rename(directory.file("cd"))
    assert not directory.has("cd")


def test_a_second_run_is_refused_and_told_who_is_first(directory: RunDirectory):
    code = (
        "import sys; from pathlib import Path; from saebench.scale.rundir import RunDirectory\n"
        "with RunDirectory(Path(sys.argv[1])).held():\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", code, str(directory.path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(OptionError, match=f"in use by process {first.pid} on "):
            directory.held().__enter__()
    finally:
        first.kill()
        first.communicate()
    with directory.held():  # a killed run lets go
        pass


def test_a_holder_that_cannot_be_read_is_another_run(directory: RunDirectory):
    with directory.held():
        (directory.path / "lock.json").write_text(json.dumps([1]))
        with pytest.raises(OptionError, match="in use by another run"):
            RunDirectory(directory.path).held().__enter__()


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="--sae-run-dir .*file/run: cannot be written"):
        RunDirectory(tmp_path / "file" / "run").held().__enter__()


def test_a_full_disk_is_an_error_that_keeps_what_was_there(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
):
    directory.write("ab", b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreError, match="No space left on device"):
        directory.write("ab", b"new")
    assert directory.read("ab") == b"old"
    assert len(list(directory.file("ab").parent.iterdir())) == 1
