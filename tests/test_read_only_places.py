"""Caches that cannot be written say so, and change neither a verdict nor an exit code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PLACES = ("HF_HOME", "HF_DATASETS_CACHE", "XDG_CACHE_HOME", "MPLCONFIGDIR", "TORCH_HOME")
JUDGE = """
import warnings; warnings.simplefilter("error", UserWarning)
import sys, saebench
sae, model, *several = sys.argv[1:]
for texts in several:
    run = saebench.judge(sae, model, texts, sequences=4, properties=["fidelity"])
    print(len(run.cases[0].metrics) > 5, run.datasets[0].sequences)
"""


def _run(gate_run, tiny, *options: str) -> pytest.RunResult:
    asked = ("--sae", tiny.good, "-k", "fidelity", *tiny.options(), *options)
    return gate_run.pytester.runpytest_inprocess("benchmarks", *asked)


@pytest.fixture
def blocked(gate_run):
    """A project whose warnings are errors; a file stands where pytest's cache should be.

    A directory's permissions would not keep root from writing.
    """
    gate_run.pytester.makepyprojecttoml("[tool.pytest.ini_options]\nfilterwarnings = ['error']\n")
    (gate_run.pytester.path / ".pytest_cache").write_text("")
    return gate_run


@pytest.mark.parametrize("options", [(), ("-W", "error")])
def test_pytests_own_cache_fails_no_run_that_passed(blocked, tiny, options):
    done = _run(blocked, tiny, *options)
    assert done.ret == pytest.ExitCode.OK
    done.stdout.no_fnmatch_line("*INTERNALERROR*")
    done.stdout.fnmatch_lines(["*PytestCacheWarning*"])


def test_nor_hides_that_one_failed(blocked, tiny):
    done = _run(blocked, tiny, "--sae-fail-on", "fidelity.kl<=0")
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    assert "FAIL" in done.stdout.str()


def test_other_warnings_are_as_strict_as_the_project_has_them(blocked, tiny):
    """Nothing but the cache's is let through, and only where SAEs are judged."""
    (blocked.pytester.path / "benchmarks" / "test_warns.py").write_text(
        "import warnings\ndef test_fidelity_warns():\n    warnings.warn('mine')\n"
    )
    done = _run(blocked, tiny)
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    assert "UserWarning: mine" in done.stdout.str()


def test_a_run_without_benchmarks_keeps_pytests_own_behaviour(blocked):
    (blocked.pytester.path / "test_plain.py").write_text("def test_one():\n    assert True\n")
    done = blocked.pytester.runpytest_subprocess("test_plain.py")
    assert done.ret != pytest.ExitCode.OK


def test_caches_of_the_hub_that_cannot_be_made_change_nothing(tiny, tmp_path: Path):
    """A directory of files is read through the library whose cache that is."""
    (tmp_path / "blocked").write_text("")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text(Path(tiny.texts).read_text())
    away = {name: str(tmp_path / "blocked" / name.lower()) for name in PLACES}
    done = subprocess.run(
        [sys.executable, "-c", JUDGE, tiny.good, tiny.model, tiny.texts, str(tmp_path / "data")],
        env=os.environ | away | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        cwd=tmp_path, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["True 4", "True 4"], done.stderr
