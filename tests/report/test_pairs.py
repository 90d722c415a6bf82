"""The table of pairs, and the heat maps that their cases make together."""

from dataclasses import replace

import pytest
from rich.cells import cell_len
from runs import make_case, make_run

from saebench.records.run import Direction, Metric, SampleSize, Verdict
from saebench.report.tables.details import heat_maps, pair_table
from saebench.report.terminal import render, told

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
    assert pair_table(mixed_run) is None
    assert heat_maps(mixed_run) == []


def test_a_skipped_pair_is_no_row(pairs_run):
    skipped = replace(pairs_run.cases[1], metrics=(), series={}, verdict=Verdict.SKIPPED)
    assert pair_table(replace(pairs_run, cases=(skipped,))) is None


def test_a_heat_map_has_the_first_sae_in_the_row_and_the_second_in_the_column(pairs_run):
    (change, compounding) = heat_maps(pairs_run)
    assert (change.metric, change.rows, change.columns) == (
        "mse_change[sae]", ("a", "b"), ("b", "c"),
    )  # fmt: skip
    assert change.cells == ((0.1, -0.25), (None, 0.1))
    assert compounding.cells == ((1.5, 1.5), (None, None))


@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_line_is_wider_than_the_terminal(width):
    run = make_run(_pair("a-very-long-name-of-an-sae" * 3, "another" * 9))
    # In cells: the hat of x-hat is a character of its own that takes none.
    assert max(cell_len(line) for line in render(run, width=width).splitlines()) <= width


def test_hostile_names_are_shown_as_they_are_never_interpreted(hostile_name):
    text = render(make_run(_pair(hostile_name, "b")), width=200)
    assert "\x1b" not in text
    assert hostile_name.replace("\x1b", "?").split("\n")[0] in text


def test_what_properties_say_is_told_once_with_all_whom_it_is_about():
    said = {"sentences": ["sparsity.l0 cannot tell it from scaled"]}
    cases = [
        replace(make_case(sae, "controls", Verdict.PASS), series=series)
        for sae, series in (("one", said), ("two", said), ("three", {}))
    ]
    run = make_run(*cases, saes=("one", "two", "three"))
    assert list(told(run)) == ["controls: sparsity.l0 cannot tell it from scaled (one, two)"]
