"""The main figures as files for papers, drawn by matplotlib: it needs no browser."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from saebench.errors import OptionError
from saebench.report.charts import Figure, View, has_data
from saebench.report.reading import Material
from saebench.report.sections import sections
from saebench.report.shapes import reading_series
from saebench.report.static_charts import draw, shown
from saebench.results import Run
from saebench.store.boards import Leaderboard


def write_figures(
    run: Run, directory: Path, *, leaderboard: Leaderboard | None = None, kind: str = "png"
) -> list[Path]:
    """Write every main figure, each view as a file of its own.

    Args:
        run: what was found.
        directory: where to; made if it does not exist.
        leaderboard: to draw beside it.
        kind: png, svg or pdf.

    Raises:
        OptionError: where matplotlib is not installed, or the directory cannot be made.
    """
    return write_views(_main_views(Material(run, leaderboard)), directory, kind=kind)


def write_views(
    views: Iterable[tuple[Figure, View]], directory: Path, *, kind: str = "png"
) -> list[Path]:
    """Write views as files.

    Args:
        views: each with its figure.
        directory: where to; made if it does not exist.
        kind: png, svg or pdf.

    Raises:
        OptionError: where matplotlib is not installed, or the directory cannot be made.
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
        canvas.suptitle(shown(" · ".join(filter(None, (figure.title, view.label, view.sae)))))
        canvas.supxlabel(shown(f"{view.chart.n} · {view.chart.interval}"), fontsize=7)
        canvas.savefig(path, dpi=200)
        written.append(path)
    return written


def _main_views(material: Material) -> Iterator[tuple[Figure, View]]:
    for section in sections():
        with reading_series(f"section {section.name}"):
            main = [figure for figure in section.figures(material) if figure.main]
            shown = [(figure, view) for figure in main for view in figure.views]
            drawn = [(figure, view) for figure, view in shown if has_data(view.chart)]
        yield from drawn


def _file_name(figure: Figure, view: View, written: list[Path]) -> str:
    parts = [
        re.sub(r"[^A-Za-z0-9.]+", "-", part).strip("-.") for part in (view.label, view.sae or "")
    ]
    name = "_".join([figure.id, *filter(None, parts)])[:120]
    taken = {path.stem for path in written}
    numbered = (f"{name}-{i}" if i else name for i in range(len(taken) + 1))
    return next(each for each in numbered if each not in taken)
