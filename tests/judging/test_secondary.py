"""Secondary gates: corrected for their number, and not deciding."""

from dataclasses import replace

import numpy as np
import pytest
from runs import make_case, make_gate, make_run

from saebench.gates.evidence import as_secondary, corrected, evidence
from saebench.judging.record import merge_runs
from saebench.records.case_result import Evidence
from saebench.records.metric import Interval
from saebench.records.verdict import Verdict
from saebench.statistics.bootstrap import sample
from saebench.statistics.levels import at_level


def _case(*ps, name="fidelity@a"):
    gates = [
        as_secondary(make_gate("fidelity.kl", Verdict.INCONCLUSIVE), Evidence(p, 1 - p)) for p in ps
    ]
    return replace(make_case("a", "fidelity", Verdict.NEW), id=name, gates=tuple(gates))


def _verdicts(*cases):
    return [gate.verdict for case in corrected(cases) for gate in case.gates]


def test_one_gate_is_decided_as_its_interval_would_decide_it():
    assert _verdicts(_case(0.02)) == [Verdict.PASS]
    assert _verdicts(_case(0.03)) == [Verdict.INCONCLUSIVE]
    assert _verdicts(_case(0.98)) == [Verdict.FAIL]


def test_the_same_p_is_no_longer_enough_among_many_gates_and_saes():
    assert _verdicts(_case(0.02, 0.5), _case(0.5, name="fidelity@b")) == [Verdict.INCONCLUSIVE] * 3
    assert _verdicts(_case(0.001, 0.5), _case(0.5, name="fidelity@b"))[0] is Verdict.PASS


def test_correcting_again_changes_nothing():
    once = corrected([_case(0.001, 0.4)])
    assert corrected(once) == once
    assert once[0].gates[0].sentence.count("Holm") == 1


def test_what_has_no_evidence_stays_what_it_is():
    gate = as_secondary(make_gate("fidelity.kl", Verdict.ERROR), None)
    case = replace(make_case("a", "fidelity", Verdict.NEW), gates=(gate,))
    assert corrected([case]) == (case,)


def test_the_chance_of_any_false_claim_among_twenty_gates_is_held():
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(2000):
        # The truth is at the limit: p is uniform.
        wrong += any(v is Verdict.FAIL for v in _verdicts(_case(*rng.uniform(size=20))))
    assert wrong / 2000 < 0.025 + 3 * (0.025 * 0.975 / 2000) ** 0.5


@pytest.mark.parametrize("limit", [0.9, 1.0, 1.3])
def test_the_p_of_a_limit_agrees_with_the_interval_that_touches_it(limit):
    table = {"kl": np.random.default_rng(0).normal(1, 0.5, 64), "n": np.ones(64)}
    found = sample(lambda s: s["kl"] / s["n"], table)
    ci = found.interval()
    told = evidence(found.value, ci, (-np.inf, limit), sampled=found)
    assert (told.p_within < 0.025) == (ci.high < limit)
    assert (told.p_beyond < 0.025) == (ci.low > limit)
    alone = evidence(found.value, ci, (-np.inf, limit), sampled=None)
    assert (alone.p_within, alone.p_beyond) == pytest.approx(
        (told.p_within, told.p_beyond), abs=0.02
    )


def test_a_range_is_shown_to_hold_by_both_of_its_sides():
    told = evidence(1.0, Interval(0.9, 1.1, 0.95, ""), (0.95, 2.0), sampled=None)
    alone = evidence(1.0, Interval(0.9, 1.1, 0.95, ""), (0.95, np.inf), sampled=None)
    assert told.p_within == alone.p_within


def test_of_several_looks_p_is_widened_as_the_intervals_are():
    plain = evidence(1.0, Interval(0.9, 1.1, 0.95, ""), (-np.inf, 1.2), sampled=None)
    with at_level(0.99):
        looked = evidence(1.0, Interval(0.9, 1.1, 0.95, ""), (-np.inf, 1.2), sampled=None)
    assert looked.p_within == pytest.approx(5 * plain.p_within)


def test_merged_runs_are_corrected_together():
    one, two = (make_run(_case(0.02, name=f"fidelity@{x}")) for x in "ab")
    merged = merge_runs([one, two])
    assert [g.evidence.corrected_for for case in merged.cases for g in case.gates] == [2, 2]
