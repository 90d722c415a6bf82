"""Repairs on the report's page."""

from dataclasses import replace

from full_run import full_run
from made_repair import ANALYSIS, COURSE, GAP, MSE, RATIO, make_repair, undefined

from saebench.report.material import Material
from saebench.report.page.run_page import run_page
from saebench.report.sections.fit_sections import SECTIONS

L0 = replace(MSE, metric="sparsity.l0")
REPAIR = SECTIONS[0]
ALL = (MSE, GAP, L0, RATIO)


def _material(*records):
    return Material(full_run("first", "second"), None, records)


def test_a_repair_is_a_table_with_intervals_and_its_features_another():
    changed, features = REPAIR.tables(_material(make_repair()))
    assert changed.texts()[0] == [
        "fidelity.mse ↓", "2", "1.5", "-0.5", "[-0.6, -0.4]", "-25.0%", "[-30.0%, -20.0%]",
    ]  # fmt: skip
    assert features.texts()[1] == [
        "scaling", "log strength", "log frequency", "-0.25", "[-0.40, -0.10]",
    ]  # fmt: skip
    assert features.texts()[2][-2:] == ["undefined", ""]
    assert "theory c·d/2 = 0.48" in features.note
    assert "cosine of decoder rows before and after: mean 0.950" in features.note


def test_what_is_undefined_says_so():
    changed, _ = REPAIR.tables(_material(make_repair(rows=(undefined(MSE),))))
    assert changed.texts()[0][1:4] == ["undefined"] * 3


def test_several_repairs_are_a_table_of_methods_first():
    one = make_repair(rows=ALL)
    two = replace(one, recipe=replace(one.recipe, method="decoder"), analysis=None)
    methods, *rest = REPAIR.tables(_material(one, two))
    assert [texts[1] for texts in methods.texts()] == ["scale", "decoder"]
    assert methods.texts()[0][2:] == [
        "-25.0%", "[-30.0%, -20.0%]", "+25.0%", "[+10.0%, +40.0%]", "2", "1.5", "0.85", "0.96",
    ]  # fmt: skip
    assert [table.id for table in rest] == ["repair-0", "repair-features-0", "repair-1"]


def test_scaling_addition_and_rotation_are_drawn_against_strength_and_frequency():
    scaling, additive, rotation = REPAIR.figures(_material(make_repair()))
    for figure, values in ((scaling, ANALYSIS.scaling), (additive, ANALYSIS.additive),
                           (rotation, ANALYSIS.cosine)):  # fmt: skip
        strength, frequency = (view.chart.layers[0] for view in figure.views)
        assert tuple(strength.x) == ANALYSIS.log_strength
        assert tuple(frequency.x) == ANALYSIS.log_frequency
        assert tuple(strength.y) == tuple(frequency.y) == values
    assert [mark.at for mark in additive.views[0].chart.marks] == [0.0, 0.48]
    assert [mark.at for mark in scaling.views[0].chart.marks] == [1.0]


def test_a_repair_that_was_not_analysed_has_no_figures():
    figures = REPAIR.figures(_material(make_repair(analysis=None)))
    assert [figure.views for figure in figures] == [(), (), ()]


def test_the_page_shows_a_repair_escaped_and_nothing_where_there_is_none():
    run = full_run("first", "second")
    page = run_page(run, repairs=[make_repair(course=replace(COURSE, texts="<b>texts"))])
    assert "repaired by scale" in page
    assert "<b>texts" not in page
    assert 'id="repair"' not in run_page(run)
