"""Helpfulness: features in whose company the answer becomes likelier, or less (seed 001)."""

from collections.abc import Iterator
from typing import Any

from saebench.records.run import CaseResult
from saebench.report.charts import Axis, Cell, Chart, Figure, Form, Layer, Mark, Table, View
from saebench.report.queries import Material, cases_of, metric_of, with_series
from saebench.report.sections import Section

HISTOGRAMS = {
    "mean_delta": ("Mean Δ ln p of each feature", "mean Δ ln p over its prompts, nats"),
    "score": ("Score of each feature", "prompts helped − prompts hurt"),
}
ENDS = ("most_helpful", "most_harmful")


def _figures(material: Material) -> Iterator[Figure]:
    cases = cases_of(material.run, "helpfulness")
    for name, (title, axis) in HISTOGRAMS.items():
        yield Figure(
            f"helpfulness-{name.replace('_', '-')}",
            title,
            "Features by how the answers fare on the prompts where they fire. Right of 0 they "
            "are in good company.",
            tuple(
                View(_histogram(shown, axis, case), sae)
                for sae, shown, case in with_series(cases, f"{name}_histogram")
            ),
            main=True,
        )


def _histogram(shown: dict[str, Any], axis: str, case: CaseResult) -> Chart:
    tested, prompts = metric_of(case, "helpfulness.tested"), case.metrics[0].n.sequences
    n = f"n = {tested.value if tested else 0:.0f} features on ≥ 20 of {prompts} prompts"
    layer = Layer("features", Form.STEPS, shown["edges"], shown["counts"], key="sae")
    y, marks = Axis("features", log=True), (Mark("x", 0.0, ""),)
    return Chart(Axis(axis), y, (layer,), n, "counts, no interval", marks)


def _tables(material: Material) -> Iterator[Table]:
    cases = cases_of(material.run, "helpfulness")
    found = [(sae, row) for end in ENDS for sae, rows, _ in with_series(cases, end) for row in rows]
    if found:
        yield Table(
            "helpfulness-table",
            "The most helpful and the most harmful features",
            ("SAE", "feature", "prompts", "mean Δ ln p, nats", "score", "p", "p, adjusted"),
            tuple(
                _row(sae, row)
                for sae, row in dict.fromkeys((s, tuple(r.items())) for s, r in found)
            ),
            tuple(sae for sae, _ in dict.fromkeys((s, tuple(r.items())) for s, r in found)),
            "two-sided sign test, Benjamini–Hochberg over the tested features",
        )


def _row(sae: str, items: tuple[tuple[str, Any], ...]) -> tuple[str | Cell, ...]:
    row = dict(items)
    numbers = ("feature", "prompts", "mean_delta", "score", "p", "p_adjusted")
    return (sae, *(Cell(f"{row[name]:.4g}", row[name]) for name in numbers))


SECTION = Section(
    "helpfulness",
    "Helpfulness",
    "Which features go with better or worse answers?",
    70,
    _figures,
    _tables,
)
