"""Nothing of the libraries' own remarks on stderr: it is saebench's and pytest's."""

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import RealData

COMMAND = [sys.executable, "-c", "import sys; from saebench.cli import main; sys.exit(main())"]
RUN = ("-k", "sparsity", "--sae-sequences", "8", "-p", "no:cacheprovider", "-s")


def _stderr(*args: str, cwd: Path) -> str:
    """Return what a command printed on stderr, apart from saebench's own notes."""
    # pytest-xdist, where it runs these tests, is not what the command is run by.
    env = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    done = subprocess.run(
        [*COMMAND, *args], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr  # a verdict, passed or not
    assert "Warning" not in done.stdout, done.stdout
    return "".join(s for s in done.stderr.splitlines(True) if not s.startswith("note: "))


@pytest.mark.parametrize("spread", [(), ("-n", "2"), ("--sae-workers", "1")])
def test_a_run_prints_nothing_on_stderr(tmp_path: Path, spread: tuple[str, ...]):
    assert _stderr("run", "--sae", "demo:l2-topk", *RUN, *spread, cwd=tmp_path) == ""


def test_a_run_of_a_saelens_sae_on_a_local_model_prints_nothing_on_stderr(
    tmp_path: Path, real_data: "RealData"
):
    given = ("--sae", real_data.sae("l0-standard"), "--sae-model", real_data.model)
    data = ("--sae-dataset", real_data.heldout)
    assert _stderr("run", *given, *data, *RUN, cwd=tmp_path) == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("repair", "demo:l2-shrunken", "--method", "scale", "--tokens", "2000"),
        ("train", "--objective", "frozen", "--hook", "blocks.1.hook_resid_pre", "--sparsity",
         "topk:16", "--tokens", "2000"),
    ],
)  # fmt: skip
def test_a_fit_prints_nothing_but_notes_on_stderr(tmp_path: Path, command: tuple[str, ...]):
    assert _stderr(*command, "-o", str(tmp_path / "out"), cwd=tmp_path) == ""
