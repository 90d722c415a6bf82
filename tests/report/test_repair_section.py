"""Repairs on the report's page."""

import pytest
from full_run import full_run
from made_repair import made_repair

from saebench.report.page.run_page import run_page
from saebench.report.reading import Material
from saebench.report.sections.repair import SECTION


@pytest.fixture(scope="module")
def record():
    return made_repair()


def test_a_repair_is_a_table_with_intervals_and_a_figure_of_its_features(record):
    material = Material(full_run("first", "second"), None, (record,))
    (table,), (figure,) = SECTION.tables(material), SECTION.figures(material)
    assert [cell if isinstance(cell, str) else cell.text for cell in table.rows[0]] == [
        "fidelity.mse ↓", "2", "1.5", "-0.5", "[-0.6, -0.4]", "-25.0%", "[-30.0%, -20.0%]",
    ]  # fmt: skip
    assert table.rows[1][1].text == "undefined"
    assert list(figure.views[0].chart.layers[0].y) == [1.2, 1.1]


def test_the_page_shows_a_repair_escaped_and_nothing_where_there_is_none(record):
    run = full_run("first", "second")
    page = run_page(run, repairs=[record])
    assert "repaired by scale" in page
    assert "<b>texts" not in page
    assert 'id="repair"' not in run_page(run)
