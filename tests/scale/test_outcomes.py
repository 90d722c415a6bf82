"""The run directory's log of how cases ended."""

import json
from pathlib import Path

import pytest

from saebench.errors import StoreError
from saebench.scale.rundir import Outcomes


def test_nothing_failed_where_nothing_was_written(tmp_path: Path):
    assert Outcomes(tmp_path).failed("one") == frozenset()
    assert not list(tmp_path.iterdir())


def test_the_last_outcome_of_each_case_counts_also_when_read_again(tmp_path: Path):
    log = Outcomes(tmp_path)
    log.note({"one", "two"}, "a", "FAIL", failed=True)
    log.note({"one"}, "b", "ERROR", failed=True)
    log.note({"one"}, "a", "PASS", failed=False)
    for each in (log, Outcomes(tmp_path)):
        assert each.failed("one") == {"b"}
        assert each.failed("two") == {"a"}


def test_what_is_measured_anew_has_not_failed_until_it_is_decided(tmp_path: Path):
    log = Outcomes(tmp_path)
    log.note({"one", "two"}, "a", "FAIL", failed=True)
    log.forget("one")
    assert not Outcomes(tmp_path).failed("one")
    assert Outcomes(tmp_path).failed("two") == {"a"}


@pytest.mark.parametrize(("cut", "left"), [(1, "abc"), (20, "ac"), (60, "ac")])
def test_half_a_line_of_a_killed_run_takes_nothing_with_it(tmp_path: Path, cut: int, left: str):
    log = Outcomes(tmp_path)
    log.note({"one"}, "a", "FAIL", failed=True)
    log.note({"one"}, "b", "FAIL", failed=True)
    log.path.write_bytes(log.path.read_bytes()[:-cut])
    Outcomes(tmp_path).note({"one"}, "c", "FAIL", failed=True)
    assert Outcomes(tmp_path).failed("one") == set(left)


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\x00",
        b"[" * 100_000,
        b"[]",
        b'{"groups": "one", "case": "a", "verdict": "FAIL", "failed": true}',
        b'{"groups": [1], "case": "a", "verdict": "FAIL", "failed": true}',
        b'{"groups": ["one"], "case": 7, "verdict": "FAIL", "failed": true}',
        b'{"groups": ["one"], "case": "a", "verdict": "FAIL", "failed": "yes"}',
        b'{"groups": ["one"], "case": "a", "verdict": "FAIL"}',
    ],
)
def test_a_line_that_is_none_of_ours_says_nothing(tmp_path: Path, line: bytes):
    Outcomes(tmp_path).note({"one"}, "b", "FAIL", failed=True)
    with (tmp_path / "outcomes.jsonl").open("ab") as file:
        file.write(line + b"\n")
    assert Outcomes(tmp_path).failed("one") == {"b"}


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path):
    log = Outcomes(tmp_path)
    log.path.mkdir()
    with pytest.raises(StoreError, match="outcomes.jsonl: cannot be written"):
        log.note({"one"}, "a", "FAIL", failed=True)
    with pytest.raises(StoreError, match="outcomes.jsonl: cannot be read"):
        Outcomes(tmp_path)


def test_a_line_says_what_people_want_to_know(tmp_path: Path):
    Outcomes(tmp_path).note({"one"}, "fidelity@x", "INCONCLUSIVE", failed=True)
    told = json.loads((tmp_path / "outcomes.jsonl").read_text())
    assert told == {
        "groups": ["one"], "case": "fidelity@x", "verdict": "INCONCLUSIVE", "failed": True
    }  # fmt: skip
