"""Propagation: an earlier SAE's errors in a later one (seeds 000, 001)."""

from collections.abc import Iterator

from saebench.records.run import CaseResult
from saebench.report.charts import Axis, Chart, Figure, Form, Layer, View
from saebench.report.queries import NO_INTERVAL, Material, by_depth, cases_of, size_of
from saebench.report.sections import Section

CELLS = {
    "mse_change[sae]": "squared error of the later SAE, change",
    "mse_change[eps_random]": "the same after ε-random",
    "l0_change[sae]": "features that fire, change",
    "norm_change[sae]": "‖x‖ there, change",
    "compounding[sae]": "KL of both over the sum of each, ×",
    "compounding[eps_random]": "the same for ε-random, ×",
    "kl_together[sae]": "KL of both, nats",
}


def _figures(material: Material) -> Iterator[Figure]:
    cases = [case for case in cases_of(material.run, "propagation") if "heat_map" in case.series]
    if not cases:
        return
    maps = [case.series["heat_map"] for case in cases]
    order = by_depth(material.run.saes)
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
    found = {
        (shown["row"], shown["column"]): shown["cell"].get(name)
        for shown in (case.series["heat_map"] for case in cases)
    }
    z = [[found.get((row, column)) for column in columns] for row in rows]
    layer = Layer(CELLS[name], Form.HEAT, columns, rows, z=z)
    axes = Axis("later SAE", categories=tuple(columns)), Axis("earlier SAE", categories=tuple(rows))
    return Chart(*axes, (layer,), size_of(cases), f"{NO_INTERVAL}; those are in the table below")


SECTION = Section(
    "propagation",
    "Propagation",
    "What do an earlier SAE's errors do to a later one, and do they compound?",
    80,
    _figures,
)
