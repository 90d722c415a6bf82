"""A run as a page: the summary, a section for each property, everything as tables."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from saebench.records.boards import Leaderboard
from saebench.records.repair import RepairRecord
from saebench.records.run import SEVERITY, Run
from saebench.records.sweep import SweepRecord
from saebench.report.charts import Figure, Table, has_data
from saebench.report.page.compared import comparison_html, comparison_table
from saebench.report.page.document import charts_by_owner, document, figure_html
from saebench.report.page.markup import Markup, joined, packed_json, tag
from saebench.report.page.page_tables import table_html, table_payload
from saebench.report.page.summary import matrix, summary, verdict_of
from saebench.report.queries import Material, by_depth
from saebench.report.sections import Section, sections
from saebench.report.style import reading_series
from saebench.report.tables.decisions import gates_table, metrics_table

if TYPE_CHECKING:
    from saebench.compare.comparison import Comparison

PAGE_BYTES = 5_900_000
LIBRARY_BYTES = 2_000_000  # plotly, packed
EXPLAINED = (
    "Position 0 and special tokens are neither substituted nor scored; averages are pooled over "
    "tokens; intervals are over documents. Figures are drawn by plotly.js (MIT licence), which is "
    "inside this file: it asks no network for anything."
)


def run_page(
    run: Run,
    *,
    leaderboard: Leaderboard | None = None,
    comparisons: Sequence["Comparison"] = (),
    repairs: Sequence[RepairRecord] = (),
    sweeps: Sequence[SweepRecord] = (),
) -> str:
    """Return one self-contained HTML file.

    Args:
        run: what was found.
        leaderboard: to draw beside it.
        comparisons: differences from other runs, to be told first.
        repairs: of the run's SAEs, or of others.
        sweeps: of trainings.
    """
    parts = list(_parts(Material(run, leaderboard, tuple(repairs), tuple(sweeps))))
    saes = _chosen_first(run)
    compared = [comparison_table(comparisons)] if comparisons else []
    tables = [*compared, *_overview(run), *(table for _, _, found in parts for table in found)]
    figures = [figure for _, found, _ in parts for figure in found]
    body = joined(
        tag("a", "Skip to the content", href="#main", class_="skip"),
        _header(parts, saes, compared=bool(comparisons)),
        tag(
            "main",
            summary(run),
            comparison_html(comparisons),
            tag(
                "section", *map(table_html, _overview(run)), id="decisions", aria_label="Decisions"
            ),
            *(_section(*part, first=saes[0] if saes else None) for part in parts),
            tag("footer", tag("p", EXPLAINED)),
            id="main",
        ),
    )
    blocks = _blocks(figures, tables, saes, room=PAGE_BYTES - LIBRARY_BYTES - len(body))
    return document(_title(run), body, blocks)


def _parts(material: Material) -> Iterator[tuple[Section, list[Figure], list[Table]]]:
    """Give each section with what it shows; properties without one get their metrics."""
    known = list(sections())
    names = {section.name for section in known}
    others = dict.fromkeys(c.property for c in material.run.cases if c.property not in names)
    for section in (
        *known,
        *(Section(n, n.replace("_", " ").capitalize(), "", 99) for n in others),
    ):
        with reading_series(f"section {section.name}"):
            figures = [kept for f in section.figures(material) if (kept := _drawable(f)).views]
            tables = list(section.tables(material))
        cases = [c for c in material.run.cases if c.property == section.name and c.metrics]
        if cases:
            tables.append(metrics_table(cases, section.name))
        if figures or tables:
            yield section, figures, tables


def _drawable(figure: Figure) -> Figure:
    return replace(figure, views=tuple(view for view in figure.views if has_data(view.chart)))


def _overview(run: Run) -> list[Table]:
    return [*([matrix(run)] if len(run.saes) > 1 else []), gates_table(run)]


def _chosen_first(run: Run) -> list[str]:
    """Return the SAEs as the chooser lists them: the worst first, then by depth."""
    return sorted(by_depth(run.saes), key=lambda id: -SEVERITY[verdict_of(run, id)])


def _section(
    section: Section, figures: list[Figure], tables: list[Table], *, first: str | None
) -> Markup:
    id = section.name.replace("_", "-")
    shown = [table_html(t, sae=first) for t in tables if not t.id.startswith("metrics-")]
    folded = [_folded(t) for t in tables if t.id.startswith("metrics-")]
    return tag(
        "section",
        tag("h2", section.title, id=f"{id}-title"),
        tag("p", section.question, class_="question") if section.question else "",
        tag("div", *map(figure_html, figures), class_="grid"),
        *shown,
        *folded,
        id=id, aria_labelledby=f"{id}-title",
    )  # fmt: skip


def _folded(table: Table) -> Markup:
    about = tag("summary", f"{table.title}: {len(table.rows):,} rows")
    return tag("details", about, table_html(table), class_="every")


def _header(parts: list[Any], saes: list[str], *, compared: bool) -> Markup:
    links = [("summary", "Summary"), *([("comparison", "Comparison")] if compared else [])]
    links += [("decisions", "Decisions")]
    links += [(section.name.replace("_", "-"), section.title) for section, *_ in parts]
    items = [tag("li", tag("a", name, href=f"#{id}")) for id, name in links]
    options = [tag("option", id, value=str(i)) for i, id in enumerate(saes)]
    chooser = tag("label", tag("span", "SAE"), tag("select", *options, id="sae"))
    return tag(
        "header",
        tag("nav", tag("ul", *items), aria_label="Sections"),
        tag("div", chooser if len(saes) > 1 else "",
            tag("button", "Theme", type="button", id="theme", aria_label="Light or dark"),
            class_="choices"),
    )  # fmt: skip


def _title(run: Run) -> str:
    name = run.saes[0].id if len(run.saes) == 1 else f"{len(run.saes)} SAEs"
    return f"{verdict_of(run).value} · {name} · saebench"


def _blocks(
    figures: Iterable[Figure], tables: Iterable[Table], saes: list[str], *, room: int
) -> dict[str, str]:
    """Return the page's data: the tables, the charts of all SAEs, and those of each while room is.

    The SAEs come worst first: those whose own charts are left out are the better ones.
    """
    owned = charts_by_owner(figures)
    found = {f"table-{table.id}": packed_json(table_payload(table)) for table in tables}
    found["charts"] = packed_json(owned.pop(None))
    spent, left_out = sum(map(len, found.values())), []
    for i, sae in enumerate(saes):
        data = packed_json(owned.get(sae, []))
        spent += len(data)
        if spent > room:
            left_out.append(i)
        else:
            found[f"charts-{i}"] = data
    found["about"] = packed_json({"saes": saes, "left_out": left_out})
    return found
