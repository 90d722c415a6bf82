"""A run as a page: the summary, a section for each property, everything as tables."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from saebench.records.boards import Leaderboard
from saebench.records.repair import RepairRecord
from saebench.records.run import Run
from saebench.records.sweep import SweepRecord
from saebench.records.verdict import SEVERITY
from saebench.report.charts import Figure, has_data
from saebench.report.material import Material
from saebench.report.page.document import charts_by_owner, document, figure_html
from saebench.report.page.markup import Markup, joined, packed_json, tag
from saebench.report.page.summary import summary
from saebench.report.sections import Section, sections
from saebench.report.style import reading_series
from saebench.report.tables import Table
from saebench.report.tables.board_tables import comparison_table
from saebench.report.tables.html_tables import table_html, table_payload
from saebench.report.tables.run_tables import gates_table, matrix_table, metrics_table

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
        run: the run.
        leaderboard: whose SAEs are drawn next to the run's.
        comparisons: differences from other runs, which come first.
        repairs: of the run's SAEs, or of others.
        sweeps: of trainings.
    """
    parts = list(_parts(Material(run, leaderboard, tuple(repairs), tuple(sweeps))))
    saes = _worst_first(run)
    overview = [*([matrix_table(run)] if len(run.saes) > 1 else []), gates_table(run)]
    compared = [comparison_table(comparisons)] if comparisons else []
    tables = [*compared, *overview, *(table for *_, of_part in parts for table in of_part)]
    figures = [figure for _, of_part, _ in parts for figure in of_part]
    body = joined(
        tag("a", "Skip to the content", href="#main", class_="skip"),
        _header(parts, saes, compared=bool(comparisons)),
        tag(
            "main",
            summary(run),
            _comparison(comparisons, compared),
            tag("section", *map(table_html, overview), id="decisions", aria_label="Decisions"),
            *(_section(*part, first=saes[0] if saes else None) for part in parts),
            tag("footer", tag("p", EXPLAINED)),
            id="main",
        ),
    )
    blocks = _blocks(figures, tables, saes, room=PAGE_BYTES - LIBRARY_BYTES - len(body))
    return document(_title(run), body, blocks)


def _comparison(comparisons: Sequence["Comparison"], tables: Sequence[Table]) -> Markup:
    """Return the section of what got worse; nothing where nothing was compared."""
    if not comparisons:
        return Markup("")
    lines = [f"{c.second}: {name}: {why}" for c in comparisons for name, why in c.incomparable]
    items = [tag("li", line) for line in lines]
    left_out = tag("details", tag("summary", f"{len(items)} not comparable"), tag("ul", *items))
    return tag(
        "section", tag("h2", "Comparison", id="comparison-title"), *map(table_html, tables),
        left_out if items else "", id="comparison", aria_labelledby="comparison-title",
    )  # fmt: skip


def _parts(material: Material) -> Iterator[tuple[Section, list[Figure], list[Table]]]:
    """Yield each section with its figures and tables; a property without one gets its metrics."""
    known = list(sections())
    names = {section.name for section in known}
    others = dict.fromkeys(c.property for c in material.run.cases if c.property not in names)
    known += [Section(name, name.replace("_", " ").capitalize(), "", 99) for name in others]
    for section in known:
        with reading_series(f"section {section.name}"):
            drawable = [_drawable(figure) for figure in section.figures(material)]
            tables = list(section.tables(material))
        cases = [c for c in material.run.cases if c.property == section.name and c.metrics]
        if cases:
            tables.append(metrics_table(cases, section.name))
        figures = [figure for figure in drawable if figure.views]
        if figures or tables:
            yield section, figures, tables


def _drawable(figure: Figure) -> Figure:
    return replace(figure, views=tuple(view for view in figure.views if has_data(view.chart)))


def _worst_first(run: Run) -> list[str]:
    """Return the SAEs as the chooser lists them: the worst first, then by depth."""
    return sorted(run.by_depth(), key=lambda sae: -SEVERITY[run.verdict_of(sae)])


def _section(
    section: Section, figures: list[Figure], tables: list[Table], *, first: str | None
) -> Markup:
    id = section.name.replace("_", "-")
    open_tables = [table_html(t, sae=first) for t in tables if not t.id.startswith("metrics-")]
    folded = [_folded(t) for t in tables if t.id.startswith("metrics-")]
    return tag(
        "section",
        tag("h2", section.title, id=f"{id}-title"),
        tag("p", section.question, class_="question") if section.question else "",
        tag("div", *map(figure_html, figures), class_="grid"),
        *open_tables,
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
    return f"{run.verdict.value} · {name} · saebench"


def _blocks(
    figures: Iterable[Figure], tables: Iterable[Table], saes: list[str], *, room: int
) -> dict[str, str]:
    """Return the page's data: tables, charts of all SAEs, and each SAE's own as far as they fit.

    The SAEs come worst first: those whose own charts are left out are the better ones.
    """
    owned = charts_by_owner(figures)
    blocks = {f"table-{table.id}": packed_json(table_payload(table)) for table in tables}
    blocks["charts"] = packed_json(owned.pop(None))
    spent, left_out = sum(map(len, blocks.values())), []
    for i, sae in enumerate(saes):
        data = packed_json(owned.get(sae, []))
        spent += len(data)
        if spent > room:
            left_out.append(i)
        else:
            blocks[f"charts-{i}"] = data
    blocks["about"] = packed_json({"saes": saes, "left_out": left_out})
    return blocks
