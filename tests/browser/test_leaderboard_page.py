"""The leaderboard's page: filters, order, Pareto fronts."""

from pathlib import Path

import pytest

from saebench.report.page.leaderboard_page import leaderboard_page
from saebench.store.leaderboard import read_leaderboard

BASELINES = Path(__file__).resolve().parents[2] / "baselines" / "leaderboard.json"


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    path = tmp_path_factory.mktemp("board") / "board.html"
    path.write_bytes(leaderboard_page(read_leaderboard(BASELINES)).encode())
    return path


def test_every_stored_sae_has_a_row_and_every_front_a_chart(opened, board):
    found = opened(board).ready()
    rows = {(r.key, b.hook) for b in read_leaderboard(BASELINES).boards for r in b.rows}
    assert len(found.rows("boards")) == len(rows)
    assert found.page.evaluate("document.querySelectorAll('#fronts .point').length") > 1


@pytest.mark.parametrize(("column", "at"), [("model", 0), ("hook", 1), ("architecture", 2)])
def test_choosers_leave_the_rows_of_one_value(opened, board, column, at):
    found = opened(board)
    chooser = f"[data-table=boards] .chooser[data-column={column}]"
    value = found.page.eval_on_selector(chooser, "c => c.options[c.options.length - 1].value")
    found.page.select_option(chooser, value)
    found.page.wait_for_timeout(200)
    assert {row[at] for row in found.rows("boards")} == {value}


def test_the_best_comes_first_when_sorted_by_a_metric(opened, board):
    found = opened(board)
    found.page.click("[data-table=boards] th:nth-child(7) button")
    found.page.wait_for_selector("[data-table=boards] th:nth-child(7)[aria-sort=ascending]")
    values = [float(row[6].split()[0]) for row in found.rows("boards")]
    assert values == sorted(values)


def test_published_figures_are_there_and_have_no_place(opened, board):
    found = opened(board)
    assert any("Gurnee" in cell for row in found.rows("published") for cell in row)
