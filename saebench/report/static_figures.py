"""Figures for papers, drawn by matplotlib."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from saebench.errors import OptionError
from saebench.records.boards import Leaderboard
from saebench.records.run import Run
from saebench.report.charts import Chart, Figure, Form, Layer, View, has_data
from saebench.report.material import Material
from saebench.report.page.markup import visible
from saebench.report.sections import sections
from saebench.report.style import reading_series

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#a67c00", "#56b4e9", "#555555", "#7a4fbf",
           "#8c3a00", "#006d77", "#000000", "#5c7a00")  # fmt: skip
FIXED = {"sae": 1, "eps_random": 0, "clean": 6, "both": 2, "only_clean": 1, "only_sae": 0,
         "neither": 6, "prompt": 0}  # fmt: skip
MARKERS = "osD^Pvx*<>h"
STYLES = ("-", "--", ":", "-.")
CROWDED, NAMED = 60, 16
LONGEST_TEXT = 70


def draw(axes: Any, chart: Chart) -> None:
    """Draw one chart on matplotlib's axes."""
    fresh = 2
    for i, layer in enumerate(chart.layers):
        key = layer.key or layer.name
        if key not in FIXED:
            fresh += 1
        colour = COLOURS[FIXED.get(key, fresh - 1 if len(chart.layers) > 1 else 0) % len(COLOURS)]
        DRAWERS[layer.form](axes, chart, layer, i, colour)
    for i, mark in enumerate(chart.marks):
        line = axes.axvline if mark.axis == "x" else axes.axhline
        style = STYLES[(i + 1) % len(STYLES)]
        label = plain(mark.label) or None
        line(mark.at, color="black", linewidth=0.8, linestyle=style, zorder=0, label=label)
    _label(axes, chart)


def _bars(axes: Any, chart: Chart, layer: Layer, i: int, colour: str) -> None:
    width = 0.8 if chart.stacked else 0.8 / len(chart.layers)
    places = [chart.x.categories.index(str(x)) for x in layer.x]
    shift = 0 if chart.stacked else (i - (len(chart.layers) - 1) / 2) * width
    below = [sum(_at(other, x) for other in chart.layers[:i]) for x in layer.x]
    axes.bar([p + shift for p in places], [y or 0 for y in layer.y], width, color=colour,
             bottom=below if chart.stacked else None, yerr=_errors(layer), label=plain(layer.name),
             error_kw={"linewidth": 0.7})  # fmt: skip


def _at(layer: Layer, x: Any) -> float:
    y = next((y for at, y in zip(layer.x, layer.y, strict=False) if at == x), None)
    return float(y or 0)


def _dots(axes: Any, chart: Chart, layer: Layer, i: int, colour: str) -> None:
    x = _places(chart, layer)
    shift = 0.0 if layer.faint or not chart.x.categories else 0.6 * (i / len(chart.layers) - 0.5)
    jitter = [((7919 * k) % 101 / 101 - 0.5) * 0.5 if layer.faint and chart.x.categories else 0
              for k in range(len(x))]  # fmt: skip
    places = [a + shift + b for a, b in zip(x, jitter, strict=True)]
    axes.errorbar(places, [float("nan") if y is None else y for y in layer.y], _errors(layer),
                  fmt=MARKERS[i % len(MARKERS)], color=colour, markersize=2 if layer.faint else 4,
                  alpha=0.35 if layer.faint else 0.9, linewidth=0.8, linestyle="none",
                  label=plain(layer.name))  # fmt: skip
    if layer.labels and len(layer.labels) <= NAMED:
        for name, at, y in zip(layer.labels, places, layer.y, strict=True):
            axes.annotate(plain(name), (at, y), (3, 3), textcoords="offset points", fontsize=6)


def _places(chart: Chart, layer: Layer) -> list[float]:
    if chart.x.categories:
        return [chart.x.categories.index(str(x)) for x in layer.x]
    return [float("nan") if x is None else float(x) for x in layer.x]


def _line(axes: Any, chart: Chart, layer: Layer, i: int, colour: str) -> None:
    x = _places(chart, layer)
    y = [float("nan") if v is None or (chart.y.log and float(v) <= 0) else v for v in layer.y]
    style = "-" if layer.key == "prompt" else STYLES[i % len(STYLES)]
    axes.plot(x, y, color=colour, linewidth=0.8 if layer.faint else 1.8, linestyle=style,
              alpha=0.4 if layer.key == "prompt" else 1, label=plain(layer.name))  # fmt: skip


def _steps(axes: Any, chart: Chart, layer: Layer, i: int, colour: str) -> None:  # noqa: ARG001
    axes.stairs([float("nan") if v is None else v for v in layer.y], layer.x, color=colour,
                linewidth=1.4, label=plain(layer.name))  # fmt: skip


def _heat(axes: Any, chart: Chart, layer: Layer, i: int, colour: str) -> None:  # noqa: ARG001
    rows = [[float("nan") if v is None else v for v in row] for row in layer.z or []]
    reach = max((abs(v) for row in rows for v in row if v == v), default=1.0)
    image = axes.imshow(rows, cmap="RdBu_r", vmin=-reach, vmax=reach, aspect="auto")
    axes.figure.colorbar(image, ax=axes)
    axes.set_yticks(range(len(layer.y)), [plain(str(y)) for y in layer.y], fontsize=7)


def _text(*_: Any) -> None:
    """Texts are read on the page; no paper prints them as a figure."""


DRAWERS = {Form.BARS: _bars, Form.DOTS: _dots, Form.LINE: _line, Form.STEPS: _steps,
           Form.HEAT: _heat, Form.TEXT: _text}  # fmt: skip


def _errors(layer: Layer) -> Any:
    if layer.low is None or layer.high is None:
        return None
    rows = list(zip(layer.y, layer.low, layer.high, strict=True))
    down = [0 if low is None or y is None else max(0, float(y) - low) for y, low, _ in rows]
    up = [0 if high is None or y is None else max(0, high - float(y)) for y, _, high in rows]
    return [down, up]


def _label(axes: Any, chart: Chart) -> None:
    axes.set_xlabel(plain(chart.x.title), fontsize=9)
    axes.set_ylabel(plain(chart.y.title), fontsize=9)
    axes.tick_params(labelsize=8)
    for name, axis in (("x", chart.x), ("y", chart.y)):
        if axis.log:
            getattr(axes, f"set_{name}scale")("log", base=axis.log_base)
    names = chart.x.categories
    if names and len(names) <= CROWDED:
        labels = [plain(name)[:40] for name in names]
        axes.set_xticks(range(len(names)), labels, rotation=45, ha="right", fontsize=7)
    named = len(chart.layers) + sum(bool(mark.label) for mark in chart.marks)
    if 1 < named <= 2 * len(COLOURS):
        axes.legend(fontsize=6, ncols=2, framealpha=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def plain(text: str) -> str:
    """Return a text that matplotlib does not take for a formula, cut to a length that fits."""
    text = visible(text)
    text = text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"
    return text.replace("$", r"\$")


def write_figures(
    run: Run, directory: Path, *, leaderboard: Leaderboard | None = None, kind: str = "png"
) -> list[Path]:
    """Write every main figure, each view as a file of its own.

    Args:
        run: the run.
        directory: of the files; created if it does not exist.
        leaderboard: whose SAEs are drawn next to the run's.
        kind: png, svg or pdf.

    Raises:
        OptionError: where matplotlib is not installed, or the directory cannot be created.
    """
    return write_views(_main_views(Material(run, leaderboard)), directory, kind=kind)


def write_views(
    views: Iterable[tuple[Figure, View]], directory: Path, *, kind: str = "png"
) -> list[Path]:
    """Write views as files.

    Args:
        views: each with its figure.
        directory: of the files; created if it does not exist.
        kind: png, svg or pdf.

    Raises:
        OptionError: where matplotlib is not installed, or the directory cannot be created.
    """
    try:
        from matplotlib.figure import Figure as Canvas
    except ModuleNotFoundError as error:
        raise OptionError(
            "--figures draws with matplotlib, which is not installed: "
            "pip install 'pytest-saebench[figures]'"
        ) from error
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"--figures {directory}: {error.strerror}") from error
    written = []
    for figure, view in views:
        path = directory / f"{_file_name(figure, view, written)}.{kind}"
        canvas = Canvas(figsize=(9, 4.5) if figure.wide else (6, 4.2), layout="constrained")
        draw(canvas.subplots(), view.chart)
        canvas.suptitle(plain(" · ".join(filter(None, (figure.title, view.label, view.sae)))))
        canvas.supxlabel(plain(f"{view.chart.n} · {view.chart.interval}"), fontsize=7)
        canvas.savefig(path, dpi=200)
        written.append(path)
    return written


def _main_views(material: Material) -> Iterator[tuple[Figure, View]]:
    for section in sections():
        with reading_series(f"section {section.name}"):
            views = [
                (figure, view)
                for figure in section.figures(material)
                if figure.main
                for view in figure.views
                if has_data(view.chart)
            ]
        yield from views


def _file_name(figure: Figure, view: View, written: list[Path]) -> str:
    parts = [
        re.sub(r"[^A-Za-z0-9.]+", "-", part).strip("-.") for part in (view.label, view.sae or "")
    ]
    name = "_".join([figure.id, *filter(None, parts)])[:120]
    taken = {path.stem for path in written}
    numbered = (f"{name}-{i}" if i else name for i in range(len(taken) + 1))
    return next(each for each in numbered if each not in taken)
