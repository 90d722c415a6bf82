"""CSV: read back by pandas."""

from io import StringIO

import pandas as pd
import pytest
from runs import make_case, make_run

from saebench.records.run import Verdict
from saebench.report.exports.csv_table import COLUMNS, to_csv


def _frame(run):
    return pd.read_csv(StringIO(to_csv(run)), keep_default_na=False, dtype=str)


def test_there_is_a_row_for_each_metric_and_one_for_a_case_without(mixed_run):
    frame = _frame(mixed_run)
    assert tuple(frame.columns) == COLUMNS
    assert len(frame) == sum(len(case.metrics) or 1 for case in mixed_run.cases)
    (error,) = frame[frame["case"] == "kl_gap@one"].to_dict("records")
    assert (error["case_verdict"], error["note"]) == ("ERROR", "NonFiniteValue: logits overflow")


def test_a_row_says_the_number_its_interval_its_gate_and_its_tokens(mixed_run):
    frame = _frame(mixed_run)
    chosen = (frame["case"] == "fidelity@one") & (frame["metric"] == "fidelity.kl")
    (row,) = frame[chosen].to_dict("records")
    assert (float(row["value"]), float(row["ci_low"]), float(row["ci_high"])) == (0.5, 0.4, 0.6)
    assert (row["rule"], row["gate_verdict"]) == ("fidelity.kl<=1", "FAIL")
    assert (row["dataset"], row["seed"], row["sequences"]) == ("f", "0", "64")


def test_an_undefined_value_is_empty_with_its_note(mixed_run):
    frame = _frame(mixed_run)
    odd = frame[frame["metric"] == "fidelity.odd"]
    assert set(odd["value"]) == {""}
    assert set(odd["note"]) == {"none"}


@pytest.mark.parametrize("name", ['a,"b"', "a\nb", "ö😀", ";"])
def test_names_are_read_back_as_they_were(name):
    run = make_run(make_case(name, "fidelity", Verdict.PASS), saes=(name,))
    assert set(_frame(run)["sae"]) == {name}
