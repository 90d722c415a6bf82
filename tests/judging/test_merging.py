"""One run of several processes' cases."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saebench.judging.record import merge_runs
from saebench.records.case_result import CaseResult
from saebench.records.inputs import DatasetRecord, ModelRecord, SubjectRecord
from saebench.records.run import Run, RunRecord
from saebench.records.verdict import SEVERITY, Verdict

MODEL = ModelRecord("model", None, "m", "float32", "cpu")
DATA = DatasetRecord("texts", None, None, "d", 6, 16, "documents", 6, 0, {})


def _case(id: str, verdict: Verdict = Verdict.PASS) -> CaseResult:
    about, _, sae = id.partition("@")
    return CaseResult(id, sae, about, {}, verdict, "", 0.1, "f")


def _sae(id: str, path: str = "resumed") -> SubjectRecord:
    return SubjectRecord(id, "here", "w" + id, "c", "standard", "hook", path, 4, 8, 16)


def _run(*cases: CaseResult, saes: tuple[SubjectRecord, ...] = (), **changes: Any) -> Run:
    given = {"status": "PASS", "started": "2024-01-01T00:00:00+00:00", "complete": True}
    given |= {"finished": "2024-01-01T00:01:00+00:00", "id": "id", "argv": ()}
    record = RunRecord(profile="smoke", seed=0, **(given | changes))
    return Run(1, record, {}, {}, {}, (MODEL,), (DATA,), saes, cases)


def test_cases_are_those_of_all_in_the_order_of_their_ids():
    one = _run(_case("kl_gap@b"), _case("fidelity@a"))
    two = _run(_case("fidelity@b"), _case("kl_gap@a"))
    ids = ["fidelity@a", "fidelity@b", "kl_gap@a", "kl_gap@b"]
    assert [c.id for c in merge_runs([one, two]).cases] == ids
    assert merge_runs([two, one]).cases == merge_runs([one, two]).cases


def test_models_data_and_saes_are_listed_once():
    other = replace(DATA, fingerprint="e", name="prompts")
    one = _run(saes=(_sae("a"), _sae("b")))
    two = replace(_run(saes=(_sae("b"), _sae("a"))), datasets=(DATA, other))
    merged = merge_runs([one, two])
    assert merged.models == (MODEL,)
    assert merged.datasets == (DATA, other)
    assert [s.id for s in merged.saes] == ["a", "b"]


def test_two_models_are_both_listed():
    second = replace(MODEL, weights_sha256="n")
    two = replace(_run(), models=(second,))
    assert merge_runs([_run(), two]).models == (MODEL, second)


@pytest.mark.parametrize("turned", [False, True])
def test_an_sae_is_described_by_the_process_that_measured_it(turned):
    runs = [_run(saes=(_sae("a", "not measured"),)), _run(saes=(_sae("a", "full"),))]
    (sae,) = merge_runs(runs[::-1] if turned else runs).saes
    assert sae.hook_path == "full"


@pytest.mark.parametrize("one", [True, False])
@pytest.mark.parametrize("two", [True, False])
def test_it_is_complete_only_if_all_are(one, two):
    assert merge_runs([_run(complete=one), _run(complete=two)]).run.complete is (one and two)


@given(st.lists(st.lists(st.sampled_from(list(Verdict)), max_size=3), min_size=1, max_size=4))
def test_its_status_is_the_worst_of_its_decided_cases(verdicts):
    runs = [
        _run(*(_case(f"p{i}@{k}", verdict) for i, verdict in enumerate(some)))
        for k, some in enumerate(verdicts)
    ]
    told = [v for some in verdicts for v in some]
    decided = [v for v in told if v not in (Verdict.NEW, Verdict.SKIPPED)]
    expected = max(decided or told, key=SEVERITY.__getitem__, default=Verdict.SKIPPED)
    assert merge_runs(runs).run.status == expected.value


def test_it_lasted_from_the_first_start_to_the_last_end():
    starts, ends = ("10:02", "10:00", "10:01"), ("10:05", "10:07", "10:06")
    times = zip(starts, ends, strict=True)
    merged = merge_runs([_run(started=start, finished=end) for start, end in times])
    assert (merged.run.started, merged.run.finished) == ("10:00", "10:07")


def test_one_run_alone_stays_as_it_is():
    run = _run(_case("fidelity@a"), saes=(_sae("a"),))
    assert merge_runs([run]) == run


def test_the_runs_themselves_are_left_as_they_were():
    one, two = _run(_case("kl_gap@a")), _run(_case("fidelity@a"))
    merge_runs([one, two])
    assert ([c.id for c in one.cases], [c.id for c in two.cases]) == (["kl_gap@a"], ["fidelity@a"])


def test_no_run_at_all_is_an_error():
    with pytest.raises(ValueError, match="no run"):
        merge_runs([])


ANNOUNCED = ("kl_gap@b", "fidelity@b", "kl_gap@a")


@pytest.mark.parametrize("turned", [False, True])
def test_cases_and_saes_are_in_the_announced_order_whichever_process_ends_first(turned):
    saes = (_sae("b"), _sae("a"))
    runs = [
        _run(_case("kl_gap@a"), saes=saes),
        _run(_case("fidelity@b"), _case("kl_gap@b"), saes=saes),
    ]
    merged = merge_runs(runs[::-1] if turned else runs, announced=ANNOUNCED)
    assert tuple(case.id for case in merged.cases) == ANNOUNCED
    assert [sae.id for sae in merged.saes] == ["b", "a"]
    assert merged.run.complete


def test_an_announced_case_that_no_process_judged_makes_it_incomplete():
    runs = [_run(_case("kl_gap@a")), _run(_case("kl_gap@b"))]
    assert not merge_runs(runs, announced=ANNOUNCED).run.complete


def test_a_case_that_two_processes_judged_is_listed_once():
    runs = [_run(_case("kl_gap@a")), _run(_case("kl_gap@a"))]
    assert [case.id for case in merge_runs(runs, announced=("kl_gap@a",)).cases] == ["kl_gap@a"]
