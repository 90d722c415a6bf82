"""Commands run in this process, in a directory with baselines of their own."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from runs import make_case, make_run
from stored import make_data, store

from saebench.cli import main
from saebench.records.verdict import Verdict
from saebench.store.json_files import write_record


@dataclass(frozen=True)
class Said:
    """What a command gave: its exit code and what it wrote, with spaces run together."""

    code: int
    out: str
    err: str


@pytest.fixture
def saebench(capsys, monkeypatch):
    """Run a command; nothing but its own words is written."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments):
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Said(code, " ".join(said.out.split()), " ".join(said.err.split()))

    return run


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A directory with baselines of three SAEs on one board and one elsewhere, and a run."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "baselines"
    store(root, "good", kl=0.05, norm=0.99, architecture="topk")
    store(root, "bad", kl=0.3, norm=0.7)
    store(root, "elsewhere", hook="blocks.0.hook_resid_pre")
    store(root, "othertext", data=make_data("others", fingerprint="2" * 64))
    cases = [make_case("one", "fidelity", Verdict.FAIL), make_case("two", "sparsity", Verdict.PASS)]
    write_record(make_run(*cases, saes=("one", "two")), tmp_path / "run.json")
    return tmp_path


@pytest.fixture
def odd_json(tmp_path):
    """Write a JSON file that is not what a command expects."""

    def write(content, name="odd.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write
