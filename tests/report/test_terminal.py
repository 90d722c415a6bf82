"""The terminal's tables: an SAE's gates, pairs, hardest tokens."""

from dataclasses import replace

import pytest
from rich.cells import cell_len
from runs import make_case, make_run

from saebench.records.metric import Direction, Metric, SampleSize
from saebench.records.verdict import Verdict
from saebench.report.tables.run_tables import pairs_table
from saebench.report.terminal import remarks, render, sentences


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
    (line,) = (x for x in render(run).splitlines() if "explained_by_norm" in x)
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


TOKEN = {"id": 5, "count": 12, "sequences": 9, "mean_gap": 0.51234, "sd": 1.25}


def _tokens_case(*tokens, ci=(0.25, 0.75), sae="one"):
    case = make_case(sae, "hard_tokens", Verdict.NEW, gated=False)
    return replace(case, series={"tokens": [TOKEN | {"token": t, "ci": ci} for t in tokens]})


def _token_rows(text):
    return [line for line in text.splitlines() if "0.5123" in line]


def test_a_token_has_its_text_counts_gap_and_interval():
    (row,) = _token_rows(render(make_run(_tokens_case(" the"))))
    assert row.split() == ["'", "the'", "12", "9", "0.5123", "[0.25,", "0.75]", "1.25"]


@pytest.mark.parametrize(
    ("token", "shown"),
    [("\n", r"'\n'"), ("\x1b[31m", r"'\x1b[31m'"), ("[red]", "'[red]'"), (" \u200a", r"' \u200a'"),
     ("é😀", "'é😀'"), ("'", '"\'"')],
)  # fmt: skip
def test_a_token_is_shown_so_that_it_can_be_read_and_steers_nothing(token, shown):
    text = render(make_run(_tokens_case(token)))
    assert "\x1b" not in text
    assert shown in _token_rows(text)[0]


def test_a_token_of_too_few_texts_says_so():
    (row,) = _token_rows(render(make_run(_tokens_case("a", ci=None))))
    assert "in too few texts" in row


def test_each_sae_has_its_table_of_hardest_tokens():
    run = make_run(_tokens_case("a"), _tokens_case("b", sae="two"), saes=("one", "two"))
    text = render(run)
    assert len(_token_rows(text)) == 2
    assert "two: hardest tokens" in text


def test_beside_other_properties_the_tables_are_left_to_the_result_file():
    run = make_run(_tokens_case("a"), make_case("one", "fidelity", Verdict.PASS))
    assert not _token_rows(render(run))


SIZE = SampleSize(64, 6400)


def _pair(first, second, *, change=0.1, compounding=1.5):
    names = {"mse_change[sae]": change, "compounding[sae]": compounding}
    metrics = tuple(
        Metric(f"propagation.{n}", 1, v, "×", Direction.LOWER, SIZE) for n, v in names.items()
    )
    case = make_case(f"{first}→{second}", "propagation", Verdict.NEW, gated=False)
    series = {"heat_map": {"row": first, "column": second, "cell": names}}
    params = {"first": first, "second": second}
    return replace(case, metrics=metrics, params=params, series=series)


@pytest.fixture
def pairs_run():
    cases = (_pair("a", "b"), _pair("a", "c", change=-0.25), _pair("b", "c", compounding=None))
    return make_run(make_case("a", "fidelity", Verdict.PASS), *cases, saes=("a", "b", "c"))


def test_every_pair_has_a_row_with_its_changes(pairs_run):
    text = render(pairs_run)
    rows = [line.split() for line in text.splitlines() if " → " in line and "second" not in line]
    assert [row[:3] for row in rows] == [["a", "→", "b"], ["a", "→", "c"], ["b", "→", "c"]]
    assert [row[3] for row in rows] == ["+10.0%", "-25.0%", "+10.0%"]
    assert rows[0][6:8] == ["1.50", "×"]
    assert "–" in rows[2]


def test_a_run_without_pairs_has_no_such_table(mixed_run):
    assert pairs_table(mixed_run) is None


def test_a_skipped_pair_is_no_row(pairs_run):
    skipped = replace(pairs_run.cases[1], metrics=(), series={}, verdict=Verdict.SKIPPED)
    assert pairs_table(replace(pairs_run, cases=(skipped,))) is None


@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_line_of_pairs_is_wider_than_the_terminal(width):
    run = make_run(_pair("a-very-long-name-of-an-sae" * 3, "another" * 9))
    # In cells: the hat of x-hat is a character of its own that takes none.
    assert max(cell_len(line) for line in render(run, width=width).splitlines()) <= width


def test_hostile_names_of_pairs_are_never_interpreted(hostile_name):
    text = render(make_run(_pair(hostile_name, "b")), width=200)
    assert "\x1b" not in text
    assert hostile_name.replace("\x1b", "?").split("\n")[0] in text


def test_a_remark_of_a_property_is_given_once_with_all_its_saes():
    said = {"sentences": ["sparsity.l0 cannot tell it from scaled"]}
    cases = [
        replace(make_case(sae, "controls", Verdict.PASS), series=series)
        for sae, series in (("one", said), ("two", said), ("three", {}))
    ]
    run = make_run(*cases, saes=("one", "two", "three"))
    assert list(remarks(run)) == ["controls: sparsity.l0 cannot tell it from scaled (one, two)"]
