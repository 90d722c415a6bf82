"""The Markdown summary, read back by a Markdown parser of its own."""

from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt
from runs import make_case, make_run

from saebench.records.verdict import Verdict
from saebench.report.markdown import to_markdown
from saebench.report.tables import Column, Table, row
from saebench.report.tables.text_tables import code, escaped, markdown_table


class _Page(HTMLParser):
    """The page's tags, its text, and the cells of its tables."""

    def __init__(self, markdown):
        super().__init__()
        self.tags, self.cells, self.text, self.inside = [], [], "", False
        self.feed(MarkdownIt("commonmark").enable("table").render(markdown))

    def handle_starttag(self, tag, attrs):  # noqa: ARG002  (the base class names it)
        self.tags.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        self.text += data
        if self.inside:
            self.cells[-1] += data


def test_the_verdict_is_the_heading(mixed_run):
    page = _Page(to_markdown(mixed_run))
    assert "h2" in page.tags
    assert page.text.startswith("saebench: 💥 ERROR\n0 of 2 SAEs passed.")


def test_a_run_that_was_not_finished_says_so(mixed_run):
    from dataclasses import replace

    record = replace(mixed_run.run, complete=False)
    assert "not finished" in _Page(to_markdown(replace(mixed_run, run=record))).text


def test_every_sae_has_a_row_with_its_verdict_the_worst_first(mixed_run):
    cells = _Page(to_markdown(mixed_run, detailed=False)).cells
    assert cells.index("one") < cells.index("two")
    assert cells[cells.index("one") + 1] == "💥 ERROR"
    assert cells[cells.index("two") + 1] == "🆕 NEW"


def test_a_gate_that_failed_is_marked_beside_its_value(mixed_run):
    cells = _Page(to_markdown(mixed_run)).cells
    assert "0.5 [0.4, 0.6] ❌" in cells
    assert "0.5 [0.4, 0.6]" in cells


def test_every_reason_is_told(mixed_run):
    text = _Page(to_markdown(mixed_run)).text
    assert "FAIL fidelity@one: fidelity.kl said so." in text
    assert "ERROR kl_gap@one: NonFiniteValue: logits overflow" in text
    assert "sparsity.kl said so" not in text


def test_places_are_listed(mixed_run):
    assert "one: is 1st of 3 by a.b[c]" in _Page(
        to_markdown(mixed_run, places=["one: is 1st of 3 by a.b[c]"])
    ).text  # fmt: skip


HOSTILE = ("a|b", "<script>x</script>", "[a](http://b)", "@someone", "`x`", "*a*", "# a", "a\nb",
           "![x](y)", "- a", "1. a", "\\", "a\\|b", "&lt;")  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text_in_their_own_cell(name):
    run = make_run(make_case(name, "fidelity", Verdict.FAIL), saes=(name,))
    page, plain = (_Page(to_markdown(r)) for r in (run, make_run(_FAILED)))
    assert page.tags == plain.tags
    assert len(page.cells) == len(plain.cells)
    shown = " ".join(name.split()).replace("`", "'")
    assert shown in [cell.strip() for cell in page.cells]


_FAILED = make_case("one", "fidelity", Verdict.FAIL)


@pytest.mark.parametrize("text", HOSTILE)
def test_escaped_text_in_a_list_is_shown_as_it_is(text):
    page = _Page("- " + escaped(text))
    assert page.text.strip() == " ".join(text.split())
    assert page.tags == ["ul", "li"]


def test_a_control_character_never_reaches_the_page():
    assert "\x1b" not in escaped("\x1b[31m") + code("\x1b[31m")


def test_a_table_has_a_cell_for_each_value():
    table = Table("t", "", (Column("a"), Column("b")), (row("1", "2"), row("3", "4")))
    assert _Page(markdown_table(table)).cells[:5] == ["a", "b", "1", "2", "3"]


def test_a_run_without_cases_is_no_error():
    assert "SKIPPED" in to_markdown(make_run())


def test_what_is_odd_about_an_sae_stands_before_the_reasons(mixed_run):
    from dataclasses import replace

    noted = tuple(replace(sae, notes=("60 of 80 sequences repeat <b>another</b>",))
                  for sae in mixed_run.saes)  # fmt: skip
    page = _Page(to_markdown(replace(mixed_run, saes=noted), detailed=False))
    assert "one: 60 of 80 sequences repeat <b>another</b>" in page.text
    assert page.text.index("60 of 80") < page.text.index("Not passed")
    assert "b" not in page.tags
