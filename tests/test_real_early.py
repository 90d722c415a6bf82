"""Runs of the real SAEs that end early, against whole ones (docs/statistics.md has the table)."""

import pytest

import saebench
from saebench.records.verdict import Verdict

SEQUENCES = 512
PROPERTIES = ["fidelity", "kl_gap", "shrinkage", "sparsity"]
FAR = 12  # half-widths of the whole run's interval from a value to its limit: a clear case


@pytest.fixture(scope="module")
def runs(real_data):
    """The seven SAEs on 512 stories, whole and ended early."""

    def judged(*, stop_early):
        return saebench.judge(
            real_data.sae("*"), real_data.model,
            str(real_data.root / "text" / "tinystories-train.jsonl"),
            sequences=SEQUENCES, interventions=("eps_random",), properties=PROPERTIES,
            stop_early=stop_early,
        )  # fmt: skip

    return judged(stop_early=False), judged(stop_early=True)


def _gates(run):
    return {(case.id, gate.rule): gate for case in run.cases for gate in case.gates}


def _looked_at(run):
    """How many sequences each SAE's gates were decided on."""
    return {
        case.sae: max(m.n.sequences for c in run.cases if c.sae == case.sae for m in c.metrics)
        for case in run.cases
    }


def _is_clear(gate):
    """Whether the whole run's value is many of its interval's half-widths from each limit."""
    ends = [float(x) for x in gate.limit.replace("≤", "").replace("≥", "").split("…")]
    half = (gate.ci.high - gate.ci.low) / 2
    return all(abs(gate.observed - end) > FAR * half for end in ends)


@pytest.mark.slow
def test_clear_cases_need_a_tenth_of_the_run_and_get_its_verdicts(runs):
    whole, early = runs
    ours, theirs = _gates(early), _gates(whole)
    assert ours.keys() == theirs.keys()
    assert {k: g.verdict for k, g in ours.items()} == {k: g.verdict for k, g in theirs.items()}
    looked = _looked_at(early)
    clear = {
        case.sae for case in whole.cases
        if all(_is_clear(g) for c in whole.cases if c.sae == case.sae for g in c.gates)
    }  # fmt: skip
    print({sae: (n, sae in clear) for sae, n in looked.items()})  # noqa: T201
    assert len(clear) >= 3, looked
    assert all(looked[sae] <= SEQUENCES / 10 for sae in clear), looked


@pytest.mark.slow
def test_no_case_that_ends_early_is_undecided(runs):
    _, early = runs
    looked = _looked_at(early)
    undecided = {case.sae for case in early.cases if case.verdict is Verdict.INCONCLUSIVE}
    assert all(looked[sae] == SEQUENCES for sae in undecided)
