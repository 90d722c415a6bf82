"""Repairs on the report's page."""

import pytest
from full_run import full_run

from saebench.repairs import (
    CourseRow,
    FeatureAnalysis,
    Ranged,
    RepairCourse,
    RepairRecipe,
    RepairRecord,
    RepairRow,
)
from saebench.report.page.run_page import run_page
from saebench.report.reading import Material
from saebench.report.sections.repair import SECTION
from saebench.results import Direction


@pytest.fixture(scope="module")
def record():
    run = full_run("first", "second")
    mse = RepairRow(
        "fidelity.mse", "", Direction.LOWER, None, Ranged(2.0), Ranged(1.5),
        Ranged(-0.5, -0.6, -0.4), Ranged(-0.25, -0.3, -0.2),
    )  # fmt: skip
    none = RepairRow(
        "perplexity_gap", "", Direction.LOWER, None, Ranged(None), Ranged(None), Ranged(None),
        Ranged(None),
    )  # fmt: skip
    many = (0.1, 0.2)
    analysis = FeatureAnalysis(
        1000, 2, 0, 100, (), 1.1, 0.1, 0.1, None, 1.0, 1.0, many, many, (1.2, 1.1), many, many
    )
    return RepairRecord(
        1, {}, {}, run.saes[0], run.saes[1], run.models[0],
        RepairRecipe("scale", ("s",), 1000, 1e-3, 64, 0.0, 5, 0),
        RepairCourse(1000, False, 1.0, "<b>texts", "f" * 8, 500, 2.0, 0, 100,
                     (CourseRow(0, None, 2.0),)),
        run.datasets[0], (mse, none), (), analysis,
    )  # fmt: skip


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
