"""The table model, and that each renderer shows one table's numbers, verdicts and reasons."""

import csv
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO

import pytest
from huggingface_hub import ModelCard
from rich.console import Console
from runs import make_case, make_run

from saebench.records.metric import Interval
from saebench.records.verdict import Verdict
from saebench.report.exports.measurements import to_html
from saebench.report.exports.model_card import to_model_card
from saebench.report.markdown import to_markdown
from saebench.report.page.run_page import run_page
from saebench.report.tables import Column, Kind, Table, interval, number, row, verdict_cell
from saebench.report.tables.html_tables import notebook_table, table_html, table_payload
from saebench.report.tables.rich_tables import rich_table
from saebench.report.tables.run_tables import gates_table, pairs_table
from saebench.report.tables.text_tables import csv_table, markdown_table
from saebench.report.terminal import render

COLUMNS = (
    Column("metric", Kind.NAME),
    Column("value", Kind.NUMBER),
    Column("95% CI", Kind.INTERVAL, rank=2),
    Column("change", Kind.NUMBER, rank=1),
    Column("verdict", Kind.VERDICT),
    Column("reason", optional=True),
)
CI = Interval(1, 2, 0.95, "bootstrap")
ROWS = (
    row("kl_gap.ratio[eps_random] ↓", number(1.23456, unit="×"), interval(CI),
        number(0.5, "+.3g"), verdict_cell(Verdict.PASS), ""),
    row("=1+1", number(None), interval(None), number(None), verdict_cell(Verdict.NEW), ""),
)  # fmt: skip
TABLE = Table("t", "A table", COLUMNS, ROWS, note="a note")


def _terminal(table, width=100):
    out = StringIO()
    Console(file=out, width=width).print(rich_table(table, width=width))
    return out.getvalue()


def test_a_terminal_shows_title_cells_and_note():
    text = _terminal(TABLE)
    assert text.startswith("A table")
    assert "kl_gap.ratio[eps_random] ↓  1.235 ×  [1, 2]    +0.5  PASS" in text
    assert text.rstrip().endswith("a note")


def test_columns_of_the_highest_rank_go_first_where_there_is_no_room():
    assert "[1, 2]" not in _terminal(TABLE, width=54)
    assert "+0.5" in _terminal(TABLE, width=54)
    assert "+0.5" not in _terminal(TABLE, width=46)
    assert "PASS" in _terminal(TABLE, width=46)


def test_a_name_is_broken_at_its_parts_where_it_does_not_fit():
    lines = [line.strip() for line in _terminal(TABLE, width=34).splitlines()]
    assert any(line.startswith("kl_gap.ratio ") for line in lines)
    assert any(line.startswith("[eps_random] ↓") for line in lines)


@pytest.mark.parametrize("width", [20, 34, 46, 54, 100])
def test_no_line_is_wider_than_the_terminal(width):
    assert max(map(len, _terminal(TABLE, width).splitlines())) <= width


def test_markdown_joins_an_interval_to_its_number_and_marks_verdicts():
    assert markdown_table(TABLE).splitlines() == [
        "| metric | value | change | verdict |",
        "|---|--:|--:|---|",
        "| `kl_gap.ratio[eps_random] ↓` | 1.235 × [1, 2] | +0.5 | ✅ PASS |",
        "| `=1+1` | – | – | 🆕 NEW |",
    ]


def test_csv_has_all_digits_no_formula_and_nothing_for_what_is_undefined():
    _, first, second = csv.reader(csv_table(TABLE).splitlines())
    assert first[:2] == ["kl_gap.ratio[eps_random] ↓", "1.23456"]
    assert second[:2] == ["'=1+1", ""]


def test_a_page_sorts_numbers_by_value_and_leaves_out_empty_optional_columns():
    payload = table_payload(TABLE)
    assert payload["columns"] == ["metric", "value", "95% CI", "change", "verdict"]
    assert payload["rows"][0][1:3] == [["1.235 ×", 1.23456], ["[1, 2]", 1]]
    assert payload["rows"][1][1] == ["–", None]
    assert "badge v-pass" in table_html(TABLE)


def test_an_optional_column_with_content_is_shown():
    filled = replace(TABLE, rows=(TABLE.changed(ROWS[0], reason=number(1)), ROWS[1]))
    assert "reason" in table_payload(filled)["columns"]
    assert "reason" in _terminal(filled)


def test_a_notebook_shows_verdicts_in_their_colours():
    assert 'style="color:#1a7f37"><b>PASS</b>' in notebook_table(TABLE)


class _Text(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.text = ""
        self.feed(html)

    def handle_data(self, data):
        self.text += data


def _with_why(verdict):
    """A run of one gate, whose limit has a reason."""
    case = make_case("one", "fidelity", verdict)
    gate = case.gates[0]
    object.__setattr__(gate, "why", "more <b>is</b> too much")
    return make_run(case)


RENDERERS = {
    "terminal": render,
    "Markdown": lambda run: to_markdown(run).replace("\\", ""),
    "page": lambda run: _Text(run_page(run)).text,
    "notebook": lambda run: _Text(to_html(run)).text,
    "model card": lambda run: str(ModelCard(to_model_card(run)).data.to_dict()),
}


@pytest.mark.parametrize("renderer", RENDERERS)
def test_why_a_limit_exists_is_shown_where_it_was_not_met(renderer):
    assert "more <b>is</b> too much" in RENDERERS[renderer](_with_why(Verdict.FAIL))


@pytest.mark.parametrize("renderer", RENDERERS)
def test_why_a_limit_exists_is_not_shown_where_it_was_met(renderer):
    assert "too much" not in RENDERERS[renderer](_with_why(Verdict.PASS))


def test_new_and_skipped_cases_come_last_and_secondary_gates_before_them():
    case = make_case("one", "fidelity", Verdict.PASS)
    secondary = replace(case.gates[0], verdict=Verdict.FAIL, secondary=True)
    cases = (
        make_case("one", "tax", Verdict.SKIPPED, gated=False),
        make_case("one", "cost", Verdict.NEW, gated=False),
        replace(case, gates=(secondary, *case.gates)),
    )
    verdicts = [r[0] for r in gates_table(make_run(*cases)).select("verdict").texts()]
    assert verdicts == ["PASS", "FAIL", "NEW", "SKIPPED"]


def test_a_run_without_pairs_has_no_table_of_them(mixed_run):
    assert pairs_table(mixed_run) is None


def test_a_line_break_in_a_title_or_note_begins_no_line():
    """A CI service may take a line for a command."""
    name = "x\n::error::y"
    hostile = replace(TABLE, title=name, about=name, subtitle=name, note=name, remarks=(name,))
    lines = _terminal(hostile).splitlines()
    assert not [line for line in lines if line.lstrip().startswith("::")]
