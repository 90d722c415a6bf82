"""The demo says whether the zoo came out as known, and its exit code says it too."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from saebench.records.case_result import CaseResult
from saebench.records.verdict import Verdict
from saebench.zoo import shelf as zoo
from tools.zoo import check as demo


def _case(sae: str, about: str, verdict: Verdict = Verdict.PASS) -> CaseResult:
    return CaseResult(f"{about}@{sae}", sae, about, {}, verdict, "because", 0.1, "f")


def _as_known() -> list[CaseResult]:
    bad = [_case(sae, about, verdict) for (sae, about), verdict in demo.EXPECTED.items()]
    return [*bad, _case("l1-standard", "kl_gap")]


def _run(cases: list[CaseResult]):
    return SimpleNamespace(cases=tuple(cases))


def test_the_known_verdicts_are_no_surprise():
    assert demo.surprises(_run(_as_known())) == []


@pytest.mark.parametrize("verdict", [v for v in Verdict if v is not Verdict.PASS])
def test_a_good_sae_that_does_not_pass_is_a_surprise(verdict):
    cases = [*_as_known(), _case("l2-topk", "kl_gap", verdict)]
    (wrong,) = demo.surprises(_run(cases))
    assert "kl_gap@l2-topk: expected PASS" in wrong


@pytest.mark.parametrize("case", demo.REPORTED)
def test_a_reported_case_that_something_decides_is_a_surprise(case):
    assert not demo.surprises(_run([*_as_known(), _case("l2-topk", case, Verdict.NEW)]))
    assert demo.surprises(_run([*_as_known(), _case("l2-topk", case, Verdict.INCONCLUSIVE)]))


def test_a_bad_sae_that_passes_is_a_surprise():
    cases = [replace(case, verdict=Verdict.PASS) for case in _as_known()]
    assert len(demo.surprises(_run(cases))) == len(demo.EXPECTED)


def test_a_bad_sae_that_was_not_judged_is_a_surprise():
    (wrong,) = demo.surprises(_run(_as_known()[1:]))
    assert "was not judged" in wrong


def test_what_is_expected_to_fail_is_in_the_zoo():
    assert {sae for sae, _ in demo.EXPECTED} <= set(zoo.names())


def test_a_gate_that_cannot_start_fails_the_demo(monkeypatch, capsys):
    ended = SimpleNamespace(returncode=4)
    monkeypatch.setattr(demo.subprocess, "run", lambda *_, **__: ended)
    assert demo.main([]) == 1
    assert "exit code 4" in capsys.readouterr().out
