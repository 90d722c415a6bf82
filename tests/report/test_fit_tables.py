"""A repair in the terminal."""

from dataclasses import replace
from io import StringIO

import pytest
from made_repair import ANALYSIS, COURSE, GAP, MSE, make_repair, undefined
from rich.console import Console

from saebench.records.repair import Ranged
from saebench.report.style import Plain
from saebench.report.tables.fit_tables import repair_lines, repair_table
from saebench.report.tables.rich_tables import rich_table


def shown(record, width=100):
    out = StringIO()
    Console(file=out, width=width).print(Plain(rich_table(repair_table(record), width=width)))
    return out.getvalue()


def row(record, metric, width=100):
    (line,) = (line for line in shown(record, width).splitlines() if metric in line)
    return line.split()


def test_a_row_is_before_after_change_interval_and_share():
    assert row(make_repair(), "fidelity.mse") == [
        "fidelity.mse", "↓", "2", "1.5", "-0.5", "[-0.6,", "-0.4]", "-25.0%", "[-30.0%,",
        "-20.0%]",
    ]  # fmt: skip


def test_a_change_without_an_interval_shows_none():
    assert row(make_repair(), "shrinkage.l2_ratio") == [
        "shrinkage.l2_ratio", "→", "0.85", "0.96", "+0.11", "+12.9%",
    ]  # fmt: skip


def test_what_is_undefined_says_so_and_has_no_share():
    record = make_repair(rows=(undefined(MSE), GAP))
    assert row(record, "fidelity.mse") == ["fidelity.mse", "↓", *["undefined"] * 3]


def test_a_narrow_terminal_has_no_shares_and_no_line_wider_than_it():
    text = shown(make_repair(), width=62)
    assert "share" not in text
    assert "-25.0%" not in text
    assert max(map(len, text.splitlines())) <= 62
    assert "share" in shown(make_repair(), width=72)


def test_the_title_says_the_method_and_the_caption_what_was_judged_and_the_notes():
    text = shown(make_repair())
    assert "before  repaired by scale" in text
    assert "pair by pair over 64 sequences of 12 tokens of d" in text
    assert "a note" in text


def test_control_characters_never_reach_the_terminal():
    record = make_repair(notes=("\x1b[31mred",))
    record = replace(
        record,
        before=replace(record.before, id="a\x1b[2Jb"),
        course=replace(COURSE, texts="t\x07"),
        judged_on=replace(record.judged_on, name="d\x1b]0;x"),
    )
    text = shown(record) + "\n".join(repair_lines(record))
    assert not [c for c in text if not c.isprintable() and c != "\n"]
    assert "a?[2Jb" in text


def test_the_recovered_share_is_the_falls_with_its_interval_turned_round():
    assert next(repair_lines(make_repair())) == "perplexity gap recovered: +25.0% [+10.0%, +40.0%]"


def test_a_gap_that_is_undefined_is_not_spoken_of():
    record = make_repair(rows=(MSE, undefined(GAP)))
    assert not [line for line in repair_lines(record) if "recovered" in line]


@pytest.mark.parametrize(("converged", "why"), [(True, "converged"), (False, "all tokens used")])
def test_the_course_says_how_much_of_what_and_why_it_ended(converged, why):
    record = make_repair(course=replace(COURSE, converged=converged))
    told = f"fitted on 1,000 tokens of train.jsonl (2.0 passes; {why}) in 12 s"
    assert told in list(repair_lines(record))


def test_the_features_say_correlations_additive_change_rotation_and_flips():
    lines = list(repair_lines(make_repair()))
    assert "r(scaling, log strength) = -0.700 [-0.80, -0.50]" in lines
    assert "r(scaling, log strength given log frequency) = -0.250 [-0.40, -0.10]" in lines
    assert not [line for line in lines if line.startswith("r(scaling, log frequency)")]
    assert "additive change over 2 features: mean 0.13, median 0.125; theory c·d/2 = 0.48" in lines
    assert "decoder cosine before/after: mean 0.9500, lowest 0.9000" in lines
    assert "features switched on or off: 3 of 4,096" in lines


def test_where_the_penalty_is_unknown_no_theory_is_told():
    record = make_repair(analysis=replace(ANALYSIS, additive_theory=None))
    assert not [line for line in repair_lines(record) if "theory" in line]


def test_features_that_changed_are_not_analysed():
    lines = "\n".join(repair_lines(make_repair(analysis=None)))
    assert "r(" not in lines
    assert "switched" not in lines


def test_verdicts_that_changed_are_told_and_others_not():
    record = make_repair()
    (same,) = (replace(gate, after=gate.before) for gate in record.gates)
    assert list(repair_lines(record))[-1] == "fidelity.kl<=0.1: FAIL before, PASS after"
    assert "fidelity.kl<=0.1" not in "\n".join(repair_lines(replace(record, gates=(same,))))


@pytest.mark.parametrize("missing", ["low", "high"])
def test_an_interval_that_lacks_an_end_in_the_file_is_not_shown(missing):
    first, *rest = ANALYSIS.correlations
    ends = {"low": -0.5, "high": 0.5} | {missing: None}
    odd = replace(first, r=Ranged.of(0.25, **ends))
    lines = list(repair_lines(make_repair(analysis=replace(ANALYSIS, correlations=(odd, *rest)))))
    [line] = [line for line in lines if line.endswith("= +0.250")]
    assert line.startswith("r(")
