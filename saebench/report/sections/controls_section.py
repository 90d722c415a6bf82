"""Controls: whether each property can tell the SAE from one that knows nothing."""

from collections.abc import Iterator

from saebench.records.run import CaseResult
from saebench.report.charts import Axis, Chart, Figure, Form, Mark, View
from saebench.report.queries import Material, bars, cases_of, interval_of, sae_axis, size_of
from saebench.report.sections import Section

PREFIX = "controls.margin["


def _figures(material: Material) -> Iterator[Figure]:
    cases = [case for case in cases_of(material.run, "controls") if case.metrics]
    names = [m.name for case in cases for m in case.metrics if m.name.startswith(PREFIX)]
    by_property: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        about = name.removeprefix(PREFIX).partition(":")[0]
        by_property.setdefault(about, []).append(name)
    yield Figure(
        "controls-margins",
        "How much better than SAEs that know nothing",
        "Above 0 the property tells the SAE from the control; an interval across 0 says that it "
        "cannot.",
        tuple(View(_margins(cases, found), label=about) for about, found in by_property.items()),
        wide=True,
    )


def _margins(cases: list[CaseResult], names: list[str]) -> Chart:
    layers = tuple(
        bars(name.partition(":")[2].rstrip("]"), cases, name, form=Form.DOTS) for name in names
    )
    marks = (Mark("y", 0.0, "no better than the control"),)
    axes = sae_axis(cases), Axis("better by")
    return Chart(*axes, layers, size_of(cases), interval_of(cases), marks)


SECTION = Section(
    "controls",
    "Controls",
    "Can each property tell the SAE from one that knows nothing?",
    95,
    _figures,
)
