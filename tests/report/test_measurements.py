"""Measurements: CSV read back by pandas, data frames, and a notebook's table."""

from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO

import pandas as pd
import pytest
from runs import make_case, make_run

from saebench.records.verdict import Verdict
from saebench.report.exports.measurements import COLUMNS, to_csv, to_html, to_pandas
from saebench.report.page.markup import visible


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


KNOWN = {"table", "thead", "tbody", "tr", "th", "td", "b"}


class _Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found, self.text = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):  # noqa: ARG002  (the base class names it)
        self.found.add(tag)

    def handle_data(self, data):
        self.text.append(data)


def test_hostile_names_never_become_tags(hostile_name, hostile_run):
    page = _Tags(to_html(hostile_run))
    assert page.found <= KNOWN
    assert visible(hostile_name) in page.text


def test_every_gate_has_a_row_with_its_verdict(mixed_run):
    text = _Tags(to_html(mixed_run)).text
    assert [text.count(v) for v in ("PASS", "FAIL", "ERROR", "INCONCLUSIVE", "NEW")] == [1] * 5


def test_the_data_frame_has_a_row_for_each_metric(mixed_run):
    frame = to_pandas(mixed_run)
    assert len(frame) == sum(len(case.metrics) for case in mixed_run.cases)
    row = frame[(frame["case"] == "fidelity@one") & (frame["metric"] == "fidelity.kl")].iloc[0]
    assert (row["value"], row["ci_low"], row["ci_high"]) == (0.5, 0.4, 0.6)
    assert (row["sequences"], row["unit"], row["case_verdict"]) == (64, "nats", "FAIL")


def test_an_undefined_metric_is_missing_in_the_data_frame_and_says_why(mixed_run):
    frame = to_pandas(mixed_run)
    odd = frame[frame["metric"] == "fidelity.odd"]
    assert odd["value"].isna().all()
    assert set(odd["note"]) == {"none"}


def test_a_run_without_cases_still_has_the_columns(mixed_run):
    empty = to_pandas(replace(mixed_run, cases=()))
    assert list(empty.columns) == list(to_pandas(mixed_run).columns)
