"""Repair and training: SAEs before and after their suppression was undone; frontiers of sweeps.

Source:
    Wright & Sharkey 2024, "Addressing feature suppression in SAEs", figures 7, 8 and A1 to A4;
    "SAEs with whole-model reconstruction loss" 2024.
"""

from collections.abc import Iterator, Sequence

from saebench.records.repair import FeatureAnalysis, RepairRecord
from saebench.records.sweep import KL, L0, SweepPoint, SweepRecord
from saebench.report.charts import NO_INTERVAL, Axis, Chart, Figure, Form, Layer, Mark, View
from saebench.report.material import Material
from saebench.report.sections import Section
from saebench.report.tables import Table
from saebench.report.tables.fit_tables import (
    NONE,
    features_table,
    frontier_tables,
    places,
    repair_label,
    repair_table,
    repairs_table,
)

UNCHANGED = (Mark("y", 1.0, "as before"),)
ADDITIVE = "(scaling - 1) × strength"
AGAINST = {
    "strength": ("ln strength before", "log_strength"),
    "frequency": ("ln share of tokens on which it is on", "log_frequency"),
}
FIGURES = (
    (
        "repair-scaling",
        "By how much each feature was scaled",
        "A penalty that takes the same off each feature takes the larger share off weak ones.",
        "scaling", "decoder norm after / before, ×", UNCHANGED,
    ),
    (
        "repair-additive",
        "What each feature gained in size",
        "Theory has the penalty take the same off each feature that is alone.",
        "additive", ADDITIVE, (Mark("y", 0.0, "as before"),),
    ),
    (
        "repair-rotation",
        "By how much each feature's direction turned",
        "Methods that leave directions alone have a cosine of 1.",
        "cosine", "cosine of decoder rows, before and after", UNCHANGED,
    ),
)  # fmt: skip


def _repair_tables(material: Material) -> Iterator[Table]:
    if len(material.repairs) > 1:
        yield repairs_table(material.repairs)
    for i, record in enumerate(material.repairs):
        yield repair_table(record, id=f"repair-{i}")
        if record.analysis is not None:
            yield features_table(record, record.analysis, id=f"repair-features-{i}")


def _repair_figures(material: Material) -> Iterator[Figure]:
    analysed = [(r, r.analysis) for r in material.repairs if r.analysis is not None]
    for id, title, caption, changed, axis, marks in FIGURES:
        views = tuple(
            View(_features(record, analysis, getattr(analysis, changed), axis, against, marks),
                 label=f"{repair_label(record)}, by {against}")
            for record, analysis in analysed
            for against in AGAINST
        )  # fmt: skip
        yield Figure(id, title, caption, views)


def _features(
    record: RepairRecord,
    analysis: FeatureAnalysis,
    values: Sequence[float],
    axis: str,
    against: str,
    marks: tuple[Mark, ...],
) -> Chart:
    title, column = AGAINST[against]
    theory = analysis.additive_theory
    if axis == ADDITIVE and theory is not None:
        marks = (*marks, Mark("y", theory, "theory, c·d/2"))
    return Chart(
        Axis(title),
        Axis(axis),
        (Layer("feature", Form.DOTS, list(getattr(analysis, column)), list(values)),),
        f"n = {analysis.features:,} features, {analysis.tokens:,} tokens",
        NO_INTERVAL,
        marks,
        note=f"{repair_label(record)}, against {against}",
    )


def frontier_figure(sweep: SweepRecord, *, number: int = 0) -> Figure:
    """Return the frontier of each place, a line for each objective."""
    views = tuple(
        View(_frontier(sweep, points), label=f"{hook}, equal {equal}")
        for (equal, hook), points in places(sweep).items()
    )
    return Figure(
        f"training-frontier-{number}",
        "The whole model's KL against sparsity",
        "Lower and further left is better: the same KL with fewer features.",
        views,
        main=True,
    )


def _frontier(sweep: SweepRecord, points: list[SweepPoint]) -> Chart:
    data, layers = sweep.judged_on, []
    for objective in dict.fromkeys(point.objective for point in points):
        own = [point for point in points if point.objective == objective]
        own.sort(key=lambda point: point.metrics.get(L0, NONE).value or 0.0)
        l0, kl = ([point.metrics.get(name, NONE) for point in own] for name in (L0, KL))
        layers.append(
            Layer(
                objective,
                Form.LINE,
                [each.value for each in l0],
                [each.value for each in kl],
                [each.low for each in kl],
                [each.high for each in kl],
                labels=[point.sparsity for point in own],
            )
        )
    return Chart(
        Axis("L0, features a token", log=True, log_base=2),
        Axis("KL(original ‖ with SAE), nats", log=True),
        tuple(layers),
        f"n = {data.sequences:,} sequences of {data.context} tokens of {data.name}",
        "95% intervals over sequences",
    )


def _training_figures(material: Material) -> Iterator[Figure]:
    for number, sweep in enumerate(material.sweeps):
        yield frontier_figure(sweep, number=number)


def _training_tables(material: Material) -> Iterator[Table]:
    for number, sweep in enumerate(material.sweeps):
        yield from frontier_tables(sweep, number_of=number)


SECTIONS = (
    Section(
        "repair",
        "Repair",
        "What does undoing feature suppression change?",
        95,
        _repair_figures,
        _repair_tables,
    ),
    Section(
        "training",
        "Training",
        "Does training on the whole model's loss give better SAEs?",
        96,
        _training_figures,
        _training_tables,
    ),
)
