"""saebench doctor."""

import subprocess
import sys
from importlib import metadata

import pytest

from saebench.cli import doctor_command as checkup
from saebench.cli.doctor_command import Finding, State


def _finding(about):
    return {each.about: each for each in checkup.checkup()}[about]


def test_where_all_is_there_it_ends_with_0_and_says_how_to_start(saebench):
    said = saebench("doctor")
    assert said.code == 0
    assert "MISSING" not in said.out
    assert "a run can start: saebench run" in said.out
    assert f"torch {metadata.version('torch')}" in said.out


def test_quiet_shows_only_what_is_odd(saebench, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = saebench("doctor", "--quiet")
    assert "note offline flags HF_HUB_OFFLINE" in said.out
    assert "ok" not in said.out.split()


@pytest.mark.parametrize(("value", "state"), [("1", State.NOTE), ("0", State.OK), ("", State.OK)])
def test_offline_flags_are_told(monkeypatch, value, state):
    for name in checkup.OFFLINE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert _finding("offline flags").state is state


def test_an_absent_package_is_missing_with_the_way_to_get_it(saebench, monkeypatch):
    real = metadata.version

    def version(name):
        if name == "scipy":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(checkup.metadata, "version", version)
    said = saebench("doctor", "--quiet")
    assert said.code == 1
    assert "MISSING scipy absent → pip install 'scipy" in said.out


def test_a_package_that_is_too_old_is_missing(monkeypatch):
    monkeypatch.setattr(checkup, "_version", lambda _: "0.0.1")
    assert _finding("torch").state is State.MISSING
    assert "0.0.1, needed is >=" in _finding("torch").detail


def test_a_plugin_that_pytest_does_not_load_is_missing(saebench, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    said = saebench("doctor")
    assert said.code == 1
    assert "autoload is switched off" in said.out


def test_settings_of_the_environment_are_told(monkeypatch):
    monkeypatch.delenv("SAEBENCH_ALLOW_PARTIAL")
    monkeypatch.setenv("SAEBENCH_CONTEXT", "7")
    assert _finding("environment") == Finding("environment", State.NOTE, "SAEBENCH_CONTEXT")


def test_a_variable_that_is_no_options_is_told_with_the_nearest(monkeypatch):
    monkeypatch.setenv("SAEBENCH_CONTXT", "7")
    found = _finding("environment")
    assert found.state is State.MISSING
    assert "did you mean 'SAEBENCH_CONTEXT'" in found.detail


def test_missing_benchmarks_are_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(checkup, "benchmarks_dir", lambda: tmp_path)
    assert _finding("benchmarks").state is State.MISSING


def test_a_cache_that_cannot_be_written_is_a_note(monkeypatch):
    monkeypatch.setattr(checkup, "_writable", lambda _: False)
    assert _finding("hub cache").state is State.NOTE
    assert _finding("directory").state is State.NOTE


WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from saebench.cli import main
sys.exit(main({arguments!r}))
"""


def _without(absent, *arguments):
    code = WITHOUT.format(absent=set(absent), arguments=list(arguments))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_doctor_itself_needs_none_of_what_it_looks_for():
    done = _without(["torch", "numpy", "scipy", "rich", "pydantic", "huggingface_hub"], "doctor")
    assert done.returncode == 1, done.stderr
    assert "MISSING  torch" in done.stdout
    assert "MISSING  thresholds" in done.stdout
    assert not done.stderr


def test_any_command_that_lacks_a_package_points_at_doctor():
    done = _without(["scipy"], "leaderboard", "show")
    assert done.returncode == 4
    assert "No module named 'scipy'" in done.stderr
    assert "saebench doctor says what else is missing" in done.stderr
    assert "Traceback" not in done.stderr
