"""Repair: an SAE before and after its suppression was undone (seed 003, table A1)."""

from collections.abc import Iterator

from saebench.repairs import FeatureAnalysis, Ranged, RepairRecord
from saebench.report.charts import Axis, Cell, Chart, Figure, Form, Layer, Mark, Table, View
from saebench.report.reading import NO_INTERVAL, Material
from saebench.report.sections import Section
from saebench.report.table import ARROWS

COLUMNS = ("metric", "before", "after", "change", "95% CI of the change", "share", "its 95% CI")
UNCHANGED = (Mark("y", 1.0, "as before"),)


def _tables(material: Material) -> Iterator[Table]:
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
    if found.low is None or found.high is None:
        return Cell("–")
    return Cell(f"[{found.low:+{form}}, {found.high:+{form}}]", found.low)


def _figures(material: Material) -> Iterator[Figure]:
    analysed = [(r, r.analysis) for r in material.repairs if r.analysis is not None]
    yield Figure(
        "repair-scaling",
        "By how much each feature was scaled",
        "A penalty that takes the same off each feature takes the larger share off weak ones.",
        tuple(View(_scaling(record, found), None, _label(record)) for record, found in analysed),
    )


def _label(record: RepairRecord) -> str:
    return f"{record.before.id}, {record.recipe.method}"


def _scaling(record: RepairRecord, found: FeatureAnalysis) -> Chart:
    layer = Layer("feature", Form.DOTS, list(found.log_strength), list(found.scaling))
    return Chart(
        Axis("ln strength before"),
        Axis("decoder norm after / before, ×"),
        (layer,),
        f"n = {found.features:,} features, {found.tokens:,} tokens",
        NO_INTERVAL,
        UNCHANGED,
        note=_label(record),
    )


SECTION = Section(
    "repair",
    "Repair",
    "What does undoing feature suppression change?",
    95,
    _figures,
    _tables,
)
