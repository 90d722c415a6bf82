"""Everything that a run can store is stored, ranked, and a run is held against it."""

import shutil
from pathlib import Path

import pytest

from saebench.cli.stored import known_facts
from saebench.records.ranking import rank
from saebench.store.json_files import read_run
from saebench.store.leaderboard import build

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
EARLY = ("--sae-position", "4", "--sae-draw-position", "5", "--sae-draws", "8")


@pytest.fixture
def every_case(gate_run):
    for path in BENCHMARKS.glob("test_*.py"):
        shutil.copy(path, gate_run.pytester.path / "benchmarks")
    return gate_run


def test_a_run_of_every_case_is_ranked_and_is_no_worse_than_itself(every_case, tiny):
    every_case.judge("--sae", tiny.good, *EARLY, "--sae-update-baselines")
    root = every_case.pytester.path / "baselines"
    boards = build(root, known_facts()).boards
    assert boards
    named = [b for b in boards if any("kl_gap[scope=single]" in r.scores for r in b.rows)]
    assert rank(named[0], "kl_gap.ratio[eps_random]").ranked
    every_case.judge("--sae", tiny.good, *EARLY, "--sae-baseline", "baselines")
    margins = [
        gate
        for case in read_run(every_case.json).cases
        for gate in case.gates
        if gate.limit.startswith("baseline")
    ]
    assert {gate.metric.partition(".")[0] for gate in margins} >= {"fidelity", "kl_gap", "sparsity"}
    assert {(gate.verdict.value, gate.worse_by) for gate in margins} == {("PASS", 0.0)}
