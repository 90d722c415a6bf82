"""The page as one file: styles, scripts and data, and a policy that forbids everything else."""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any

from saebench.report.charts import Figure, as_payload
from saebench.report.page.markup import Markup, block, joined, packed, tag

SCRIPTS = ("start.js", "tables.js", "plots.js", "figures.js", "page.js")
ICON = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 8 8'%3E%3Cpath d='M1 4l2 2 4-5' fill='none' stroke='%230072b2' stroke-width='1.5'/%3E%3C/svg%3E"  # noqa: E501


def document(title: str, body: str, blocks: Mapping[str, str], *, plotly: bool = True) -> str:
    """Return a complete page.

    Its content security policy lets nothing be fetched and runs these scripts alone: a script in
    a hostile name would not run even if it were not escaped. Inline styles are allowed since
    plotly sets them; a style can fetch nothing here.

    Args:
        title: of the window.
        body: markup.
        blocks: packed data by id.
        plotly: whether it draws figures.
    """
    script = Markup(_asset_scripts())
    library = plotly_source() if plotly else b""
    data = [block(id, content) for id, content in blocks.items()]
    if plotly:
        data.append(block("plotly", packed(library)))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy",
            content=_policy(script.encode(), library)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("link", rel="icon", href=ICON),
        tag("style", Markup(_asset("page.css"))),
    )  # fmt: skip
    content = tag("body", Markup(body), joined(*data), tag("script", script))
    return f"<!doctype html>\n{tag('html', head, content, lang='en')}\n"


def plotly_source() -> bytes:
    """Return plotly.js as its Python package ships it."""
    return (files("plotly") / "package_data" / "plotly.min.js").read_bytes()


def _policy(*scripts: bytes) -> str:
    hashes = " ".join(f"'{_hash(script)}'" for script in scripts if script)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(script: bytes) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script).digest()).decode()


def _asset_scripts() -> str:
    parts = "\n".join(_asset(name) for name in SCRIPTS)
    return f'"use strict";\n(() => {{\n{parts}\n}})();\n'


def _asset(name: str) -> str:
    return (files("saebench.report.page") / "assets" / name).read_text(encoding="utf-8")


def figure_html(figure: Figure) -> Markup:
    """Return a figure's frame: title, chooser, drawing area, sample size, its data as a table."""
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
    charts: dict[str | None, list[dict[str, Any]]] = {None: []}
    for figure in figures:
        for view in figure.views:
            payload = {"figure": figure.id, "label": view.label} | as_payload(view.chart)
            charts.setdefault(view.sae, []).append(payload)
    return charts
