"""Figures of a page: a place for each, and its charts as data that is drawn when it is seen."""

from collections.abc import Iterable
from typing import Any

from saebench.report.charts import Figure, as_payload
from saebench.report.page.markup import Markup, tag


def figure_html(figure: Figure) -> Markup:
    """Return a figure's place: title, chooser, where it is drawn, its data, n and intervals."""
    title, caption = f"{figure.id}-title", f"{figure.id}-caption"
    return tag(
        "figure",
        tag("figcaption", tag("h3", figure.title, id=title),
            tag("p", figure.caption, id=caption, class_="caption")),
        tag("div", tag("label", tag("span", "Show"), tag("select", class_="views"), hidden=True),
            tag("span", class_="of-sae"), class_="controls"),
        tag("p", class_="about"),
        tag("div", tag("p", "Figures are drawn by this page's script.", class_="waiting"),
            class_="plot", role="img", aria_labelledby=title, aria_describedby=caption),
        tag("div", tag("p", class_="n"),
            tag("button", "Copy as CSV", type="button", class_="csv"),
            tag("button", "Save as SVG", type="button", class_="svg"), class_="foot"),
        tag("details", tag("summary", "The same as a table"),
            tag("div", class_="scroll", tabindex="0", role="region", aria_labelledby=title)),
        class_="wide" if figure.wide else None, id=figure.id, data_figure=figure.id,
        aria_labelledby=title,
    )  # fmt: skip


def charts_by_owner(figures: Iterable[Figure]) -> dict[str | None, list[dict[str, Any]]]:
    """Return the charts of each SAE, and under None those of all SAEs together."""
    found: dict[str | None, list[dict[str, Any]]] = {None: []}
    for figure in figures:
        for view in figure.views:
            shown = {"figure": figure.id, "label": view.label} | as_payload(view.chart)
            found.setdefault(view.sae, []).append(shown)
    return found
