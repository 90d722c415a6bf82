"""The terminal's tables."""

from dataclasses import replace

import pytest
from runs import make_case, make_run

from saebench.records.run import Verdict
from saebench.report.terminal import render, sentences


def test_the_worst_gate_is_shown_first(mixed_run):
    text = render(mixed_run, width=100)
    verdicts = [line.split()[-1] for line in text.splitlines() if "≤" in line or "kl_gap" in line]
    assert verdicts == ["ERROR", "FAIL", "INCONCLUSIVE", "PASS"]


def test_every_sae_has_a_table_with_its_worst_verdict_in_the_title(mixed_run):
    titles = [line for line in render(mixed_run).splitlines() if "32 features" in line]
    assert [title.split()[:2] for title in titles] == [["one", "ERROR"], ["two", "NEW"]]


def test_the_table_is_plain_without_a_terminal_and_coloured_with_one(mixed_run):
    assert "\x1b" not in render(mixed_run)
    assert "\x1b[" in render(mixed_run, colour=True)


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal(mixed_run, width):
    assert max(len(line) for line in render(mixed_run, width=width).splitlines()) <= width


def test_the_longest_headline_is_not_broken_inside_at_80_columns(long_run):
    assert "kl_gap.ratio[error_shuffled] ↓" in render(long_run, width=80)


def test_hostile_names_are_shown_as_they_are_never_interpreted(hostile_name, hostile_run):
    text = render(hostile_run, width=200)
    assert "\x1b" not in text
    assert hostile_name.replace("\x1b", "").split("\n")[0] in text


def test_sentences_say_what_came_out_worst_first_without_passes(mixed_run):
    lines = list(sentences(mixed_run, Verdict.ERROR, Verdict.FAIL, Verdict.INCONCLUSIVE))
    assert lines == [
        "ERROR kl_gap@one: NonFiniteValue: logits overflow",
        "FAIL fidelity@one: fidelity.kl said so.",
        "INCONCLUSIVE shrinkage@one: shrinkage.kl said so.",
    ]


def test_a_case_that_nothing_decides_is_named_with_its_parameters(scopes_run):
    text = render(scopes_run(all=True, single=False))
    assert "kl_gap[scope=single]" in text
    assert "kl_gap[scope=all]" not in text


@pytest.mark.parametrize(("gated", "shown"), [(False, "1.5 nats"), (True, "7 nats")])
def test_of_two_cases_with_one_headline_the_gated_or_else_the_first_has_it(
    scopes_run, gated, shown
):
    run = scopes_run(all=False, single=gated, gate="kl_gap.kl")
    (line,) = (x for x in render(run).splitlines() if "cov_random" in x)
    assert shown in line


def test_one_metric_gated_in_two_cases_is_told_apart(scopes_run):
    text = render(scopes_run(all=True, single=True), width=120)
    assert "of kl_gap[scope=all]" in text
    assert "of kl_gap[scope=single]" in text


def test_reported_cases_do_not_keep_an_sae_from_passing(scopes_run):
    assert "one  PASS" in render(scopes_run(all=True, single=False))
    assert "one  NEW" in render(scopes_run(all=False, single=False))


def test_the_baseline_and_the_change_are_shown_where_there_is_one():
    case = make_case("one", "fidelity", Verdict.FAIL)
    gate = replace(case.gates[0], baseline=0.25)
    text = render(make_run(replace(case, gates=(gate,))))
    assert "baseline" in text
    (row,) = (line for line in text.splitlines() if "≤ 1" in line)
    assert "0.25  +0.25" in row
    assert "baseline" not in render(make_run(case))


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_baseline_makes_no_line_wider_than_the_terminal(width):
    case = make_case("one", "fidelity", Verdict.FAIL)
    gate = replace(case.gates[0], baseline=0.25)
    text = render(make_run(replace(case, gates=(gate,))), width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "FAIL" in text
