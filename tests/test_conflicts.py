"""A project's own pytest settings, conftest files and plugins, beside the benchmarks."""

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from saebench.cli.run_command import pytest_command
from saebench.options import OPTIONS

if TYPE_CHECKING:
    from conftest import Gate

FLAGS = ("--sae", "--sae-fail-on")
COMMAND = [sys.executable, "-c", "import sys; from saebench.cli import main; sys.exit(main())"]


def _pytest(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *args]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("flag", FLAGS)
def test_a_conftest_with_an_option_of_saebench_is_named_with_exit_code_4(gate_run: "Gate", flag):
    gate_run.pytester.makeconftest(
        f"def pytest_addoption(parser):\n    parser.addoption({flag!r}, help='mine')\n"
    )
    done = _pytest("benchmarks", "--sae", "demo", cwd=gate_run.pytester.path)
    assert done.returncode == 4
    assert f"{gate_run.pytester.path / 'conftest.py'} defines the option {flag}" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_a_conftest_with_another_mistake_keeps_its_own_error(gate_run: "Gate"):
    gate_run.pytester.makeconftest(
        "def pytest_addoption(parser):\n    raise ValueError('of their own')\n"
    )
    done = _pytest("benchmarks", cwd=gate_run.pytester.path)
    assert "ValueError: of their own" in done.stderr


def test_a_plugin_that_comes_first_with_an_option_of_saebench_is_an_error_of_usage(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
):
    pytester.makepyfile(
        theirs="def pytest_addoption(parser):\n    parser.addoption('--sae-json')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(pytester.path), prepend=":")
    done = _pytest("-p", "theirs", cwd=pytester.path)
    assert done.returncode == 4
    assert "another pytest plugin" in done.stderr
    assert "defines the option --sae-json, which is saebench's" in done.stderr


@pytest.mark.parametrize("name", ["gate", "measure"])
def test_a_fixture_that_replaces_one_of_the_benchmarks_is_refused(gate_run: "Gate", name: str):
    gate_run.pytester.makeconftest(
        f"import pytest\n\n@pytest.fixture\ndef {name}():\n    return lambda *_, **__: None\n"
    )
    message = gate_run.refused("--sae", gate_run.tiny.bad)
    assert f"conftest.py defines a fixture '{name}', which replaces saebench's" in message


def test_a_parametrised_fixture_sae_is_refused_by_its_file(gate_run: "Gate"):
    gate_run.pytester.makeconftest(
        "import pytest\n\n@pytest.fixture(params=[1, 2])\ndef sae(request):\n    return 1\n"
    )
    message = gate_run.refused("--sae", gate_run.tiny.good)
    assert "conftest.py defines a fixture 'sae' with parameters" in message


def test_a_fixture_sae_of_other_tests_does_not_get_in_the_way(gate_run: "Gate"):
    gate_run.pytester.makeconftest("import pytest\n\n@pytest.fixture\ndef sae():\n    return 1\n")
    done = gate_run.judge("--sae", gate_run.tiny.good, "-k", "sparsity", "--co", "-q")
    done.stdout.fnmatch_lines(["*test_sparsity[[]good]"])


@pytest.mark.parametrize(
    "setting",
    ["python_files = check_*.py", "python_functions = check_*", "python_files = *_spec.py"],
)
def test_settings_that_hide_the_benchmarks_are_named(gate_run: "Gate", setting: str):
    gate_run.pytester.makeini(f"[pytest]\n{setting}\n")
    (gate_run.pytester.path / "pyproject.toml").unlink()
    done = gate_run.judge("--sae", gate_run.tiny.good)
    assert done.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert f"tox.ini sets {setting}; use saebench run" in done.stdout.str()


def test_nothing_collected_without_a_setting_to_blame_is_said_too(pytester: pytest.Pytester):
    pytester.mkdir("empty")
    done = pytester.runpytest_inprocess("empty", "--sae", "demo", "-p", "no:cacheprovider")
    assert done.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert "pytest collected no benchmark: name the benchmarks' directory" in done.stdout.str()


def test_a_project_without_benchmarks_hears_nothing_of_them(pytester: pytest.Pytester):
    done = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    assert "benchmark was" not in done.stdout.str()
    assert "--sae" not in done.stdout.str()


@pytest.mark.parametrize("file", ["pytest.ini", "pyproject.toml"])
def test_saebench_run_collects_the_benchmarks_whatever_tests_are_called(tmp_path: Path, file: str):
    head, quote = ("[pytest]", "") if file == "pytest.ini" else ("[tool.pytest.ini_options]", '"')
    names = f"python_files = {quote}check_*.py{quote}\npython_functions = {quote}check_*{quote}\n"
    (tmp_path / file).write_text(f"{head}\n{names}testpaths = {quote}nowhere{quote}\n")
    command = [*COMMAND, "run", "--sae", "demo:l2-topk", "--co", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "test_fidelity[l2-topk]" in done.stdout, done.stdout + done.stderr


def test_saebench_run_overrides_no_names_where_a_project_has_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -k sparsity\n")
    assert not [word for word in pytest_command(["-q"]) if word.startswith("--override")]


@pytest.mark.usefixtures("few_documents_decide_in_processes")
@pytest.mark.parametrize(
    "surroundings",
    [
        ("-W", "error", "--strict-markers", "--strict-config", "--import-mode=importlib"),
        ("-p", "no:terminal", "--doctest-modules"),
    ],
)
def test_a_run_judges_as_it_does_elsewhere(gate_run: "Gate", surroundings: tuple[str, ...]):
    options = ("--sae", gate_run.tiny.good, *gate_run.tiny.options(), "-k", "sparsity")
    out = ("--sae-json", str(gate_run.json))
    done = _pytest("benchmarks", *options, *out, *surroundings, cwd=gate_run.pytester.path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [case["verdict"] for case in gate_run.result()["cases"]] == ["PASS"]


def test_saebench_runs_where_the_current_directory_is_not_on_the_path(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    command = [*COMMAND, "run", "--sae", "demo:l2-topk", "--co", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "test_fidelity[l2-topk]" in done.stdout, done.stdout + done.stderr


def test_no_option_of_saebench_is_missed_by_the_watch():
    from saebench.conflicts import option_conflict

    for each in OPTIONS:
        error = ValueError(f"option names {{'{each.flag}'}} already added")
        assert each.flag in (option_conflict(error, "their.py") or "")
