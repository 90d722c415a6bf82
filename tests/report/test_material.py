"""Several runs on one page."""

import pytest
from full_run import full_run
from runs import make_case, make_run

from saebench.errors import OptionError
from saebench.records.verdict import Verdict
from saebench.report.material import joined_runs


def test_saes_of_one_name_are_told_apart_by_their_run():
    run = joined_runs([full_run("a", "b"), full_run("a", "b")], ["old", "new"])
    assert [sae.id for sae in run.saes] == ["a (old)", "b (old)", "a (new)", "b (new)"]
    pairs = [case for case in run.cases if case.property == "propagation"]
    assert [case.sae for case in pairs] == ["a (old)→b (old)", "a (new)→b (new)"]
    assert pairs[1].series["heat_map"]["row"] == "a (new)"


def test_saes_of_one_run_alone_keep_their_names():
    one, two = (make_run(make_case(s, "fidelity", Verdict.PASS), saes=(s,)) for s in "ab")
    assert [case.id for case in joined_runs([one, two], ["x", "y"]).cases] == [
        "fidelity@a",
        "fidelity@b",
    ]


def test_one_run_stays_as_it_is():
    run = full_run("a")
    assert joined_runs([run], ["x"]) is run


def test_the_same_file_twice_is_refused():
    with pytest.raises(OptionError, match="x: given twice"):
        joined_runs([full_run("a"), full_run("a")], ["x", "x"])
