"""Runs in notebooks."""

from html.parser import HTMLParser

from saebench.report.exports.notebook import to_html, to_pandas

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
    assert hostile_name in page.text


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
    from dataclasses import replace

    empty = to_pandas(replace(mixed_run, cases=()))
    assert list(empty.columns) == list(to_pandas(mixed_run).columns)
