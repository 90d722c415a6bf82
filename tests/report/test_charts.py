"""Charts as data: what every section draws."""

import json
from dataclasses import replace

from full_run import full_run

from saebench.records.inputs import SubjectRecord
from saebench.report.charts import Axis, Form, as_payload, by_sae, has_data
from saebench.report.material import Material
from saebench.report.sections import sections
from saebench.report.sections.fidelity_sections import doubling


def _charts(run):
    for section in sections():
        for figure in section.figures(Material(run)):
            yield from ((figure, view) for view in figure.views)


def test_every_series_of_every_property_is_drawn():
    ids = {figure.id for figure, view in _charts(full_run("a", "b")) if has_data(view.chart)}
    assert ids >= {
        "kl-of-interventions", "kl-histogram", "kl-by-position", "ce-increase-by-position",
        "ce-by-position", "single-offsets", "single-draws", "single-z", "single-examples",
        "hard-texts", "hard-parts", "hard-correlations", "context-all", "context-position",
        "context-bins", "cloze-scatter-mse", "cloze-scatter-ce-increase", "cloze-strip",
        "cloze-parallel", "helpfulness-mean-delta", "helpfulness-score", "propagation-maps",
        "shrinkage-position", "density", "controls-margins", "cost-stages",
    }  # fmt: skip


def test_figures_have_ids_of_their_own_and_each_chart_its_n_and_interval():
    seen = {}
    for figure, view in _charts(full_run("a", "b")):
        assert seen.setdefault(figure.id, figure) is figure or seen[figure.id] == figure
        assert view.chart.n.startswith("n = ")
        assert view.chart.interval


def _drawn(run):
    return {figure.id for figure, view in _charts(run) if has_data(view.chart)}


def test_a_run_without_cases_draws_what_it_cost_and_nothing_else():
    assert _drawn(full_run()) == {"cost-stages"}


def test_cases_without_series_are_drawn_by_their_metrics_alone(mixed_run):
    assert _drawn(mixed_run) == set()
    for _, view in _charts(mixed_run):
        json.dumps(as_payload(view.chart), default=list, allow_nan=False)


def test_histograms_have_one_more_edge_than_counts():
    for _, view in _charts(full_run("a", "b")):
        for layer in view.chart.layers:
            more = 1 if layer.form is Form.STEPS else 0
            assert len(layer.x) == len(layer.y) + more or layer.z is not None


def test_bins_double_and_hold_every_position_once():
    edges, means = doubling([None, *map(float, range(1, 100))])
    assert edges == [1, 2, 4, 8, 16, 32, 64, 100]
    assert sum(m * (b - a) for m, a, b in zip(means, edges, edges[1:], strict=False)) == sum(
        range(100)
    )


def test_saes_are_in_the_order_of_their_layers_not_of_their_letters():
    hooks = {"x": "blocks.10.hook_resid_pre", "y": "blocks.2.hook_resid_pre", "z": "hook_embed"}
    records = [SubjectRecord(i, "", "", "", "", h, "", 1, 1, None) for i, h in hooks.items()]
    assert replace(full_run(), saes=tuple(records)).by_depth() == ["z", "y", "x"]


def test_a_heat_map_has_the_earlier_sae_in_the_row_and_the_later_in_the_column():
    (view,) = (v for f, v in _charts(full_run("a", "b")) if v.label.startswith("squared error of"))
    (layer,) = view.chart.layers
    assert (list(layer.y), list(layer.x)) == (["a"], ["b"])


def test_a_metric_that_no_case_reports_is_not_in_the_legend():
    cases = full_run("a").cases_about("fidelity")
    metrics = {"recovered": "fidelity.ce_score", "none": "fidelity.no_such"}
    chart = by_sae(cases, Axis("share"), metrics)
    assert [layer.name for layer in chart.layers] == ["recovered"]
