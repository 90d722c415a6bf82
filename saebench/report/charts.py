"""Figures as data: charts of layers, drawn by plotly on a page and by matplotlib for papers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from saebench.records.case_result import CaseResult
from saebench.text import percent

Value = float | int | str | None
NO_INTERVAL = "means, without intervals"


class Form(StrEnum):
    """How a layer is drawn."""

    BARS = "bars"
    LINE = "line"
    STEPS = "steps"
    DOTS = "dots"
    HEAT = "heat"
    TEXT = "text"


@dataclass(frozen=True)
class Axis:
    """An axis: its title with the unit, whether it is logarithmic, its categories if any."""

    title: str
    log: bool = False
    categories: tuple[str, ...] = ()
    log_base: int = 10


@dataclass(frozen=True)
class Layer:
    """One set of marks of a chart.

    Attributes:
        name: for the legend.
        form: how it is drawn. STEPS have one more x than y: the edges of bins. TEXT has tokens
            for x and a number for each of them. HEAT has columns for x, rows for y.
        x: places on the horizontal axis.
        y: values.
        low: lower ends of intervals, None where there are none.
        high: upper ends.
        z: of HEAT, a row of values for each y.
        labels: what each mark is, for people who point at it.
        key: what the colour stands for; the name where empty.
        faint: drawn thin, behind others.
        aside: hidden until chosen in the legend, as it would dwarf the others.
    """

    name: str
    form: Form
    x: Sequence[Value]
    y: Sequence[Value]
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None
    z: Sequence[Sequence[float | None]] | None = None
    labels: Sequence[str] | None = None
    key: str = ""
    faint: bool = False
    aside: bool = False


@dataclass(frozen=True)
class Mark:
    """A line across a chart, at a place of an axis."""

    axis: str
    at: float
    label: str


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        x: the horizontal axis.
        y: the vertical axis.
        layers: what is drawn, the first behind.
        n: how much data it rests on, in words.
        interval: what the intervals are, or that there are none.
        marks: lines across it.
        marginals: True to draw the layers' histograms along both axes.
        stacked: True to put bars on each other.
        note: what this chart shows, where the figure's caption cannot say.
    """

    x: Axis
    y: Axis
    layers: tuple[Layer, ...]
    n: str
    interval: str
    marks: tuple[Mark, ...] = ()
    marginals: bool = False
    stacked: bool = False
    note: str = ""


@dataclass(frozen=True)
class View:
    """One chart of a figure: of one SAE, or of all where ``sae`` is None."""

    chart: Chart
    sae: str | None = None
    label: str = ""


@dataclass(frozen=True)
class Figure:
    """A figure of the report: its views are looked at one at a time.

    Attributes:
        id: unique on the page; letters, digits and hyphens.
        title: what it shows.
        caption: how to read it, in one or two sentences.
        views: its charts.
        main: True for those that ``--figures`` draws for papers.
        wide: True where it needs the page's whole width.
    """

    id: str
    title: str
    caption: str
    views: tuple[View, ...]
    main: bool = False
    wide: bool = False


def has_data(chart: Chart) -> bool:
    """Return whether a chart has anything to draw."""
    values = [v for layer in chart.layers for row in (layer.z or [layer.y]) for v in row]
    return any(value is not None for value in values)


def as_payload(chart: Chart) -> dict[str, Any]:
    """Return the chart for a page's script, without empty fields."""
    return {
        "x": _present(vars(chart.x)),
        "y": _present(vars(chart.y)),
        "layers": [_present(vars(layer)) for layer in chart.layers],
        "marks": [vars(mark) for mark in chart.marks],
        "n": chart.n,
        "interval": chart.interval,
        "marginals": chart.marginals,
        "stacked": chart.stacked,
        "note": chart.note,
    }


def _present(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value not in (None, "", (), False)}


def bars(
    name: str, cases: Iterable[CaseResult], metric: str, *, form: Form = Form.BARS, key: str = ""
) -> Layer:
    """Return one metric of each case, with its interval, by SAE."""
    pairs = [(case.sae, m) for case in cases if (m := case.defined(metric))]
    return Layer(
        name,
        form,
        [sae for sae, _ in pairs],
        [m.value for _, m in pairs],
        [m.ci.low if m.ci else None for _, m in pairs],
        [m.ci.high if m.ci else None for _, m in pairs],
        key=key,
    )


def by_sae(
    cases: Sequence[CaseResult],
    axis: Axis,
    metrics: Mapping[str, str],
    *,
    form: Form = Form.DOTS,
    marks: tuple[Mark, ...] = (),
) -> Chart:
    """Return the chart of metrics of each SAE; ``metrics`` has their names by those of the legend.

    A metric that no case reports is left out.
    """
    layers = (bars(name, cases, metric, form=form) for name, metric in metrics.items())
    drawn = tuple(layer for layer in layers if layer.x)
    return Chart(sae_axis(cases), axis, drawn, size_of(cases), interval_of(cases), marks)


def curve(name: str, values: Sequence[Value], *, faint: bool = False, aside: bool = False) -> Layer:
    """Return the line of values at positions 0, 1, 2 …."""
    return Layer(name, Form.LINE, list(range(len(values))), values, faint=faint, aside=aside)


def steps(name: str, histogram: Mapping[str, Any], *, key: str = "") -> Layer:
    """Return the layer of a histogram's edges and counts."""
    return Layer(name, Form.STEPS, histogram["edges"], histogram["counts"], key=key)


def sae_axis(cases: Iterable[CaseResult]) -> Axis:
    """Return the axis of the cases' SAEs, in their order."""
    return Axis("SAE, by depth", categories=tuple(dict.fromkeys(case.sae for case in cases)))


def size_of(cases: Iterable[CaseResult], what: str = "documents") -> str:
    """Return how much data the cases rest on, in words."""
    sizes = {(m.n.sequences, m.n.tokens) for case in cases for m in case.metrics[:1]}
    if not sizes:
        return "n unknown"
    most, least = max(sizes), min(sizes)
    each = "" if most == least else f"{least[0]:,} to "
    tokens = f", {most[1]:,} tokens" if most[1] != most[0] else ""
    return f"n = {each}{most[0]:,} {what}{tokens}"


def with_series(cases: Iterable[CaseResult], name: str) -> Iterator[tuple[str, Any, CaseResult]]:
    """Yield the SAE, the series and the case, of the cases that have a series of this name."""
    for case in cases:
        if series := case.series.get(name):
            yield case.sae, series, case


def interval_of(cases: Iterable[CaseResult]) -> str:
    """Return what the cases' intervals are, in words."""
    for case in cases:
        for metric in case.metrics:
            if metric.ci is not None:
                return f"{percent(metric.ci.level)} CI, {metric.ci.method}"
    return NO_INTERVAL
