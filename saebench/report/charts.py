"""Figures as data: what is drawn, in words and numbers, whoever draws it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

Value = float | int | str | None


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
        x: where.
        y: how much.
        low: lower ends of intervals, None where there are none.
        high: upper ends.
        z: of HEAT, a row of values for each y.
        labels: what each mark is, for people who point at it.
        key: what the colour stands for; the name where empty.
        faint: drawn thin, behind others.
        aside: shown only when it is asked for in the legend: it would dwarf the others.
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
        note: what this chart is of, where the figure's caption cannot say.
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


@dataclass(frozen=True)
class Cell:
    """A table's cell: what is shown, and what it sorts by where that is not the text."""

    text: str
    sort: float | None = None


@dataclass(frozen=True)
class Table:
    """A table that can be sorted and filtered.

    Attributes:
        id: unique on the page.
        title: what it holds.
        columns: their names; one called ``verdict`` is shown as badges.
        rows: strings, or cells that sort by a number.
        saes: the SAE that each row is about: only the chosen one's are shown. All where empty.
        note: n and intervals in words.
        filters: columns with a chooser of one of their values.
    """

    id: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | Cell, ...], ...]
    saes: tuple[str, ...] = ()
    note: str = ""
    filters: tuple[str, ...] = ()


def has_data(chart: Chart) -> bool:
    """Return whether a chart has anything to draw."""
    values = [v for layer in chart.layers for row in (layer.z or [layer.y]) for v in row]
    return any(value is not None for value in values)


def columns_of(chart: Chart) -> tuple[list[str], list[list[Value]]]:
    """Return the chart's data as a table's header and rows: what "copy as CSV" gives.

    Example:
        >>> layer = Layer("KL", Form.LINE, (1, 2), (0.5, 0.25))
        >>> columns_of(Chart(Axis("position"), Axis("nats"), (layer,), "", ""))[1]
        [['KL', 1, 0.5, None, None], ['KL', 2, 0.25, None, None]]
    """
    header = ["series", chart.x.title, chart.y.title, "low", "high"]
    return header, [row for layer in chart.layers for row in _rows(layer)]


def _rows(layer: Layer) -> list[list[Value]]:
    if layer.z is not None:
        return [
            [row, column, value, None, None]
            for row, values in zip(layer.y, layer.z, strict=True)
            for column, value in zip(layer.x, values, strict=True)
        ]
    none = [None] * len(layer.y)
    ends = zip(layer.low or none, layer.high or none, strict=True)
    return [
        [layer.name, x, y, low, high]
        for x, y, (low, high) in zip(layer.x, layer.y, ends, strict=False)
    ]


def as_payload(chart: Chart) -> dict[str, Any]:
    """Return the chart for a browser: small, numbers to four digits, nothing that is empty."""
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
