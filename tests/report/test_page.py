"""The report's page as a file: what it holds, and that it asks nobody for anything."""

import base64
import gzip
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from full_run import full_run
from hypothesis import given
from hypothesis import strategies as st
from runs import make_case, make_run

from saebench.records.metric import Interval
from saebench.records.verdict import Verdict
from saebench.report.page.document import plotly_source
from saebench.report.page.markup import packed_json, tag, visible
from saebench.report.page.run_page import run_page


class _Page(HTMLParser):
    """Elements with their attributes, and the text outside of scripts."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.text, self.scripts, self._inside = [], "", [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append([dict(attrs), ""])

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts[-1][1] += data
        elif self._inside != "style":
            self.text += data

    def handle_endtag(self, tag):  # noqa: ARG002
        self._inside = ""


@pytest.fixture(scope="module")
def html():
    return run_page(full_run("first", "second"))


@pytest.fixture(scope="module")
def page(html):
    return _Page(html)


def _unpacked(page, id):
    (content,) = (text for attributes, text in page.scripts if attributes.get("id") == id)
    return json.loads(gzip.decompress(base64.b64decode(content)))


def test_the_page_is_one_file_below_six_megabytes(html):
    assert len(html.encode()) <= 6_000_000


def test_nothing_is_fetched_from_anywhere(page):
    addresses = [a[k] for _, a in page.elements for k in ("src", "href", "action") if k in a]
    assert [a for a in addresses if not a.startswith(("#", "data:"))] == []
    (policy,) = (a["content"] for _, a in page.elements if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe-eval" not in policy
    assert "http" not in policy


def test_the_policy_allows_exactly_the_pages_own_scripts(page):
    (policy,) = (a["content"] for _, a in page.elements if a.get("http-equiv"))
    (own,) = (text for attributes, text in page.scripts if "type" not in attributes)
    hashes = {
        base64.b64encode(hashlib.sha256(script).digest()).decode()
        for script in (own.encode(), plotly_source())
    }
    assert set(re.findall(r"'sha256-([^']+)'", policy)) == hashes


def test_plotly_is_inlined_once_and_whole(page):
    found = [text for attributes, text in page.scripts if attributes.get("id") == "plotly"]
    assert [gzip.decompress(base64.b64decode(text)) for text in found] == [plotly_source()]


def test_the_first_screen_says_verdict_sae_model_data_and_what_fails(page):
    first = page.text.partition("Every SAE")[0]
    for said in ("FAIL", "2 SAEs: 2 FAIL", "model (float32, cpu)", "64 sequences of 12 tokens",
                 "kl_gap[scope=all]@first", "said so."):  # fmt: skip
        assert said in first


def test_a_margin_is_told_in_its_own_words():
    case = make_case("one", "fidelity", Verdict.FAIL)
    by = Interval(0.08, 0.12, 0.95, "made up")
    gate = replace(
        case.gates[0], baseline=0.25, worse_by=0.1, worse_ci=by, sentence="10% worse than before."
    )
    page = _Page(run_page(make_run(replace(case, gates=(gate,)))))
    assert f"{case.sae}: 10% worse than before." in page.text


def test_what_changed_against_the_baseline_is_told_where_there_is_one():
    case = make_case("one", "fidelity", Verdict.FAIL)
    gate = replace(case.gates[0], baseline=0.25)
    told = _Page(run_page(make_run(replace(case, gates=(gate,))))).text
    assert "one: fidelity.kl 0.25 → 0.5 (+0.25)" in told
    assert "No baseline was compared" in _Page(run_page(make_run(case))).text


def test_every_metric_of_every_case_is_in_a_table(page):
    run = full_run("first", "second")
    told = {
        row[2].split()[0]
        for about in {case.property for case in run.cases}
        for row in _unpacked(page, f"table-metrics-{about.replace('_', '-')}")["rows"]
    }
    assert told == {metric.name for case in run.cases for metric in case.metrics}


def test_the_worst_sae_is_chosen_first():
    good, bad = make_case("a", "fidelity", Verdict.PASS), make_case("b", "fidelity", Verdict.ERROR)
    assert _unpacked(_Page(run_page(make_run(good, bad, saes=("a", "b")))), "about")["saes"] == [
        "b",
        "a",
    ]


def test_a_property_without_a_section_still_has_its_metrics():
    told = _Page(run_page(make_run(make_case("one", "brand_new", Verdict.PASS)))).text
    assert "Brand new" in told
    assert "brand_new.kl" in told


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_has_a_word_and_a_shape(verdict):
    told = _Page(run_page(make_run(make_case("one", "fidelity", verdict)))).text
    assert verdict.value in told


@given(st.text(max_size=20))
def test_no_text_ends_its_element(name):
    parsed = _Page(tag("p", name, title=name))
    assert [element for element, _ in parsed.elements] == ["p"]
    assert parsed.elements[0][1]["title"] == visible(name)
    assert parsed.text == visible(name)


@given(st.text(max_size=20))
def test_packed_data_hold_no_letter_that_a_parser_of_html_reads(name):
    packed = packed_json({"name": name, "value": float("nan"), "more": 0.123456})
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", packed)
    content = json.loads(gzip.decompress(base64.b64decode(packed)))
    assert content == {"name": visible(name), "value": None, "more": 0.1235}


def test_a_secondary_gate_says_so_and_stands_behind_those_that_decide():
    from saebench.report.tables.run_tables import gates_table

    run = make_run(saes=("one",))
    case = make_case("one", "fidelity", Verdict.PASS)
    failed = replace(case.gates[0], verdict=Verdict.FAIL, secondary=True)
    run = replace(run, cases=(replace(case, gates=(failed, *case.gates)),))
    rows = gates_table(run).select("case", "verdict", "role").texts()
    assert rows == [["fidelity", "PASS", ""], ["fidelity", "FAIL", "secondary"]]
    assert "secondary" in run_page(run)


def test_what_is_odd_about_an_sae_is_seen_without_unfolding_anything():
    run = make_run(make_case("one", "fidelity", Verdict.PASS))
    odd = replace(run, saes=(replace(run.saes[0], notes=("60 of 80 sequences repeat another",)),))
    html = run_page(odd)
    before, _, after = html.partition("one: 60 of 80 sequences repeat another")
    assert after
    assert before.count("<details") == before.count("</details>")
