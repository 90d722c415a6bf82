"""KL gap, propagation, controls: the SAE's error against random errors, other SAEs, blind SAEs.

Source:
    Gurnee 2024, "SAE reconstruction errors are (empirically) pathological"; Anders & Bloom 2024.
"""

from collections.abc import Iterator
from typing import Any

from saebench.records.case_result import CaseResult
from saebench.report.charts import (
    NO_INTERVAL,
    Axis,
    Chart,
    Figure,
    Form,
    Layer,
    Mark,
    View,
    by_sae,
    curve,
    size_of,
    steps,
    with_series,
)
from saebench.report.material import Material
from saebench.report.sections import Section
from saebench.report.tables import Table
from saebench.report.tables.run_tables import pairs_table

SCOPES = {"all": "all tokens substituted", "single": "one token substituted"}
NATS = "KL, nats"
ABLATIONS = ("zero", "mean")  # a hundred times the rest
CELLS = {
    "mse_change[sae]": "squared error of the later SAE, change",
    "mse_change[eps_random]": "the same after ε-random",
    "l0_change[sae]": "features that fire, change",
    "norm_change[sae]": "‖x‖ there, change",
    "compounding[sae]": "KL of both over the sum of each, ×",
    "compounding[eps_random]": "the same for ε-random, ×",
    "kl_together[sae]": "KL of both, nats",
}
PREFIX = "controls.margin["


def _kl_gap(material: Material) -> Iterator[Figure]:
    by_scope = {scope: material.run.cases_about("kl_gap", scope=scope) for scope in SCOPES}
    measured = {scope: cases for scope, cases in by_scope.items() if any(c.metrics for c in cases)}
    if not measured:
        return
    yield Figure(
        "kl-of-interventions",
        "KL of every intervention",
        "Mean KL of the model's predictions under each substitution. An SAE whose bar stands above "
        "ε-random hurts more than noise of its own size.",
        tuple(View(_kl(cases), label=SCOPES[scope]) for scope, cases in measured.items()),
        main=True,
        wide=True,
    )
    yield Figure(
        "kl-ratio",
        "How many times worse than each random error",
        "KL under the SAE over KL under a random error of the same size. 1 is as bad as noise.",
        tuple(View(_ratio(cases), label=SCOPES[scope]) for scope, cases in measured.items()),
        main=True,
        wide=True,
    )
    everywhere = measured.get("all", [])
    yield Figure(
        "kl-histogram",
        "KL token by token",
        "Tokens by their KL, both axes logarithmic. Dashed lines: the 99.9th percentile.",
        tuple(
            View(_histogram(histograms, case), sae)
            for sae, histograms, case in with_series(everywhere, "kl_histogram")
        ),
        main=True,
    )
    for series, title in (("kl", "KL by position"), ("ce_increase", "CE increase by position")):
        yield Figure(
            f"{series.replace('_', '-')}-by-position",
            title,
            "Means over documents at each position of the context, for every substitution.",
            tuple(
                View(_curves(curves, case, log=series == "kl"), sae)
                for sae, curves, case in with_series(everywhere, f"{series}_by_position")
            ),
            main=series == "kl",
        )


def _names(cases: list[CaseResult], prefix: str) -> list[str]:
    """Return the names in brackets of the metrics with a prefix, in the order of the results."""
    names = (m.name for case in cases for m in case.metrics if m.name.startswith(f"{prefix}["))
    return list(dict.fromkeys(name[len(prefix) + 1 : -1] for name in names))


def _kl(cases: list[CaseResult]) -> Chart:
    metrics = {name: f"kl_gap.kl[{name}]" for name in _names(cases, "kl_gap.kl")}
    return by_sae(cases, Axis(NATS, log=True), metrics, form=Form.BARS)


def _ratio(cases: list[CaseResult]) -> Chart:
    names = [name for name in _names(cases, "kl_gap.ratio") if name not in ABLATIONS]
    metrics = {name: f"kl_gap.ratio[{name}]" for name in names}
    axis = Axis("KL(SAE) / KL(random), ×", log=True)
    return by_sae(cases, axis, metrics, marks=(Mark("y", 1.0, "as bad as noise"),))


def _histogram(histograms: dict[str, Any], case: CaseResult) -> Chart:
    chosen = [name for name in ("eps_random", "sae") if name in histograms]
    layers = tuple(steps(name, histograms[name]) for name in chosen)
    tails = [(name, case.defined(f"kl_gap.kl_p99.9[{name}]")) for name in chosen]
    marks = tuple(
        Mark("x", m.value, f"p99.9 {name}") for name, m in tails if m and m.value is not None
    )
    axes = Axis(NATS, log=True), Axis("tokens", log=True)
    return Chart(*axes, layers, size_of([case]), "counts, no interval", marks)


def _curves(curves: dict[str, Any], case: CaseResult, *, log: bool) -> Chart:
    layers = tuple(
        curve(name, values, faint=name != "sae", aside=not log and name in ABLATIONS)
        for name, values in curves.items()
    )
    y = Axis(NATS if log else "CE increase, nats", log=log)
    return Chart(Axis("position"), y, layers, size_of([case]), NO_INTERVAL)


def _propagation(material: Material) -> Iterator[Figure]:
    cases = [case for case in material.run.cases_about("propagation") if "heat_map" in case.series]
    if not cases:
        return
    maps = [case.series["heat_map"] for case in cases]
    order = material.run.by_depth()
    rows = [id for id in order if any(m["row"] == id for m in maps)]
    columns = [id for id in order if any(m["column"] == id for m in maps)]
    yield Figure(
        "propagation-maps",
        "What an earlier SAE does to a later one",
        "Row: the SAE substituted. Column: the later SAE that is looked at, on what is left.",
        tuple(View(_map(cases, name, rows, columns), label=CELLS[name]) for name in CELLS),
        main=True,
        wide=True,
    )


def _map(cases: list[CaseResult], name: str, rows: list[str], columns: list[str]) -> Chart:
    cells = {
        (each["row"], each["column"]): each["cell"].get(name)
        for each in (case.series["heat_map"] for case in cases)
    }
    z = [[cells.get((row, column)) for column in columns] for row in rows]
    layer = Layer(CELLS[name], Form.HEAT, columns, rows, z=z)
    axes = Axis("later SAE", categories=tuple(columns)), Axis("earlier SAE", categories=tuple(rows))
    return Chart(*axes, (layer,), size_of(cases), f"{NO_INTERVAL}; those are in the table below")


def _propagation_tables(material: Material) -> Iterator[Table]:
    if table := pairs_table(material.run):
        yield table


def _controls(material: Material) -> Iterator[Figure]:
    cases = [case for case in material.run.cases_about("controls") if case.metrics]
    names = [m.name for case in cases for m in case.metrics if m.name.startswith(PREFIX)]
    by_property: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        about = name.removeprefix(PREFIX).partition(":")[0]
        by_property.setdefault(about, []).append(name)
    yield Figure(
        "controls-margins",
        "How much better than controls that know nothing",
        "Above 0 the property tells the SAE from the control; an interval across 0 says that it "
        "cannot.",
        tuple(
            View(_margins(cases, margins), label=about) for about, margins in by_property.items()
        ),
        wide=True,
    )


def _margins(cases: list[CaseResult], names: list[str]) -> Chart:
    metrics = {name.partition(":")[2].rstrip("]"): name for name in names}
    marks = (Mark("y", 0.0, "no better than the control"),)
    return by_sae(cases, Axis("better by"), metrics, marks=marks)


SECTIONS = (
    Section(
        "kl_gap",
        "KL gap",
        "Is the SAE's error worse for the model than random errors of the same size?",
        20,
        _kl_gap,
    ),
    Section(
        "propagation",
        "Propagation",
        "What do an earlier SAE's errors do to a later one, and do they compound?",
        80,
        _propagation,
        _propagation_tables,
    ),
    Section(
        "controls",
        "Controls",
        "Can each property tell the SAE from one that knows nothing?",
        95,
        _controls,
    ),
)
