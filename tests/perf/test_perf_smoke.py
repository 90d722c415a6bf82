"""The whole command on a tiny model: every case runs and every number agrees."""

import io
import json
import warnings
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch

from perf.__main__ import main

SHORT = ("core", "interventions", "context", "sweep", "one_hook", "single_token", "train")


def _perf(directory: Path, *cases: str) -> tuple[str, dict[str, Any]]:
    """Run the command in this process; return what it prints and what it writes."""
    output, printed, threads = directory / "out.json", io.StringIO(), torch.get_num_threads()
    options = ["--smoke", "--no-sae-bench", "--threads", "1", "--repeats", "1", "-o", str(output)]
    with ExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setenv("COLUMNS", "120")
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # the peers' own
        stack.enter_context(redirect_stdout(printed))
        stack.callback(torch.set_num_threads, threads)
        assert main([*options, "--cases", *cases]) == 0
    return printed.getvalue(), json.loads(output.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What the command prints and writes, for all cases but memory."""
    return _perf(tmp_path_factory.mktemp("perf"), *SHORT)


def test_every_case_has_its_rows_and_its_times(found):
    _, report = found
    assert [o["case"] for o in report["outcomes"]] == list(SHORT)
    for outcome in report["outcomes"]:
        assert outcome["rows"][-1]["against"] == "the floor"
        assert all(row["ours"] > 0 and row["theirs"] > 0 for row in outcome["rows"])
        assert all(len(seconds) == 1 for seconds in outcome["seconds"].values())


def test_every_peer_s_numbers_agree(found):
    _, report = found
    for outcome in report["outcomes"]:
        verdicts = {c["verdict"] for c in outcome["compared"]}
        assert verdicts <= {"equal", "equal up to noise", "differs by design"}, outcome["case"]
        assert "equal" in verdicts


def test_in_the_core_batch_even_the_ablation_is_explained_by_numbers(found):
    _, report = found
    [core] = [o for o in report["outcomes"] if o["case"] == "core"]
    assert {c["verdict"] for c in core["compared"]} == {"equal"}
    assert {c["peer"] for c in core["compared"]} == set(core["seconds"]) - {"saebench"}


def test_the_table_names_cases_targets_and_what_was_left_out(found):
    printed, _ = found
    for text in ("core batch", "SAELens run_evals", "≥ 2.2", "--no-sae-bench", "not judged"):
        assert text in printed


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux' /proc")
def test_memory_is_measured_in_processes_of_their_own(tmp_path: Path):
    _, report = _perf(tmp_path, "memory")
    [memory] = report["outcomes"]
    assert [row["unit"] for row in memory["rows"]] == ["MB", "MB"]
    assert all(row["ours"] >= 0 for row in memory["rows"])
