"""Repair: an SAE before and after its suppression was undone (seed 003, table A1)."""

from collections.abc import Iterator, Sequence

from saebench.records.repair import FeatureAnalysis, Ranged, RepairRecord
from saebench.report.charts import Axis, Cell, Chart, Figure, Form, Layer, Mark, Table, View
from saebench.report.queries import NO_INTERVAL, Material
from saebench.report.sections import Section
from saebench.report.tables.repaired import recovered
from saebench.report.terminal import ARROWS

COLUMNS = ("metric", "before", "after", "change", "95% CI of the change", "share", "its 95% CI")
UNCHANGED = (Mark("y", 1.0, "as before"),)
ADDITIVE = "(scaling - 1) × strength"
AGAINST = {
    "strength": ("ln strength before", "log_strength"),
    "frequency": ("ln share of tokens on which it is on", "log_frequency"),
}
FIGURES = (  # the seed's figures 7, 8 and A4
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


METHODS = ("SAE", "method", "mse", "its 95% CI", "perplexity gap recovered", "its CI", "l0 before",
           "l0 after", "l2_ratio before", "l2_ratio after")  # fmt: skip
CORRELATIONS = ("correlation of", "with", "given", "r", "95% CI")


def _tables(material: Material) -> Iterator[Table]:
    if len(material.repairs) > 1:
        yield _methods(material.repairs)
    for i, record in enumerate(material.repairs):
        data = record.judged_on
        yield Table(
            f"repair-{i}",
            f"{record.before.id}, repaired by {record.recipe.method}",
            COLUMNS,
            tuple(_row(record, row.metric) for row in record.rows),
            note=(
                f"paired over n = {data.sequences:,} sequences of {data.context} tokens of "
                f"{data.name}; fitted on {record.course.tokens:,} tokens of {record.course.texts}"
            ),
        )
        if record.analysis is not None:
            yield _features(f"repair-features-{i}", record, record.analysis)


def _methods(records: Sequence[RepairRecord]) -> Table:
    """Return a row for each repair: what the seed's figures A1 to A3 show."""
    return Table(
        "repair-methods", "Repairs side by side", METHODS,
        tuple(_method_row(record) for record in records),
        note="mse as a share of the SAE's own; paired over sequences", filters=("method",),
    )  # fmt: skip


def _method_row(record: RepairRecord) -> tuple[str | Cell, ...]:
    mse = record.row("fidelity.mse").share
    gap = recovered(record)
    l0, ratio = (record.row(name) for name in ("sparsity.l0", "shrinkage.l2_ratio"))
    return (
        record.before.id,
        record.recipe.method,
        _number(mse.value, "+", percent=True),
        _ends(mse, ".1%"),
        _number(gap.value, "+", percent=True),
        _ends(gap, ".1%"),
        *(_number(each.value) for each in (l0.before, l0.after, ratio.before, ratio.after)),
    )


def _features(id: str, record: RepairRecord, found: FeatureAnalysis) -> Table:
    """Return the correlations of what was done to features, and in the note how much it was."""
    rows = tuple(
        (each.y, each.x, each.given or "–", _number(each.r.value, "+"), _ends(each.r, ".2f"))
        for each in found.correlations
    )
    theory = (
        f" (theory c·d/2 = {found.additive_theory:.3g})"
        if found.additive_theory is not None
        else ""
    )
    note = (
        f"n = {found.features:,} features that are on at {found.least_tokens:,} of "
        f"{found.tokens:,} tokens or more; additive change: mean {found.additive_mean:.3g}, median "
        f"{found.additive_median:.3g}{theory}; cosine of decoder rows before and after: mean "
        f"{found.cosine_mean:.3f}, lowest {found.cosine_lowest:.3f}"
    )
    return Table(id, f"Features of {_label(record)}", CORRELATIONS, rows, note=note)


def _row(record: RepairRecord, metric: str) -> tuple[str | Cell, ...]:
    row = record.row(metric)
    return (
        f"{row.metric} {ARROWS[row.direction]}",
        _number(row.before.value),
        _number(row.after.value),
        _number(row.change.value, "+"),
        _ends(row.change, ".3g"),
        _number(row.share.value, "+", percent=True),
        _ends(row.share, ".1%"),
    )


def _number(value: float | None, sign: str = "", *, percent: bool = False) -> Cell:
    if value is None:
        return Cell("undefined")
    return Cell(f"{value:{sign}.1%}" if percent else f"{value:{sign}.4g}", value)


def _ends(found: Ranged, form: str) -> Cell:
    told = found.interval(f"+{form}")
    return Cell("–") if told is None else Cell(told, found.low)


def _figures(material: Material) -> Iterator[Figure]:
    analysed = [(r, r.analysis) for r in material.repairs if r.analysis is not None]
    for id, title, caption, changed, axis, marks in FIGURES:
        yield Figure(
            id, title, caption,
            tuple(
                View(_chart(record, found, getattr(found, changed), axis, against, marks), None,
                     f"{_label(record)}, by {against}")
                for record, found in analysed
                for against in AGAINST
            ),
        )  # fmt: skip


def _label(record: RepairRecord) -> str:
    return f"{record.before.id}, {record.recipe.method}"


def _chart(
    record: RepairRecord,
    found: FeatureAnalysis,
    values: Sequence[float],
    axis: str,
    against: str,
    marks: tuple[Mark, ...],
) -> Chart:
    title, column = AGAINST[against]
    theory = found.additive_theory
    if axis == ADDITIVE and theory is not None:
        marks = (*marks, Mark("y", theory, "theory, c·d/2"))
    return Chart(
        Axis(title),
        Axis(axis),
        (Layer("feature", Form.DOTS, list(getattr(found, column)), list(values)),),
        f"n = {found.features:,} features, {found.tokens:,} tokens",
        NO_INTERVAL,
        marks,
        note=f"{_label(record)}, against {against}",
    )


SECTION = Section(
    "repair",
    "Repair",
    "What does undoing feature suppression change?",
    95,
    _figures,
    _tables,
)
