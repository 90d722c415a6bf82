"""The table of the hardest tokens."""

from dataclasses import replace

import pytest
from runs import make_case, make_run

from saebench.records.run import Verdict
from saebench.report.terminal import render

ROW = {"id": 5, "count": 12, "sequences": 9, "mean_gap": 0.51234, "sd": 1.25}


def _case(*tokens, ci=(0.25, 0.75), sae="one"):
    case = make_case(sae, "hard_tokens", Verdict.NEW, gated=False)
    return replace(case, series={"tokens": [ROW | {"token": t, "ci": ci} for t in tokens]})


def _rows(text):
    return [line for line in text.splitlines() if "0.5123" in line]


def test_a_token_has_its_text_counts_gap_and_interval():
    (row,) = _rows(render(make_run(_case(" the"))))
    assert row.split() == ["'", "the'", "12", "9", "0.5123", "[0.25,", "0.75]", "1.25"]


@pytest.mark.parametrize(
    ("token", "shown"),
    [("\n", r"'\n'"), ("\x1b[31m", r"'\x1b[31m'"), ("[red]", "'[red]'"), (" \u200a", r"' \u200a'"),
     ("é😀", "'é😀'"), ("'", '"\'"')],
)  # fmt: skip
def test_a_token_is_shown_so_that_it_can_be_read_and_steers_nothing(token, shown):
    text = render(make_run(_case(token)))
    assert "\x1b" not in text
    assert shown in _rows(text)[0]


def test_a_token_of_too_few_texts_says_so():
    (row,) = _rows(render(make_run(_case("a", ci=None))))
    assert "in too few texts" in row


def test_each_sae_has_its_table():
    run = make_run(_case("a"), _case("b", sae="two"), saes=("one", "two"))
    text = render(run)
    assert len(_rows(text)) == 2
    assert "two: hardest tokens" in text


def test_beside_other_properties_the_tables_are_left_to_the_result_file():
    run = make_run(_case("a"), make_case("one", "fidelity", Verdict.PASS))
    assert not _rows(render(run))
