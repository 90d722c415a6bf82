"""Every metric and gate of a run: as CSV, as a data frame, and as a notebook's table."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from saebench.records.case_result import CaseResult, GateResult
from saebench.records.metric import Metric
from saebench.records.run import Run
from saebench.report.tables import Cell, Column, Kind, Row, Table
from saebench.report.tables.html_tables import notebook_table
from saebench.report.tables.run_tables import gates_table
from saebench.report.tables.text_tables import csv_table

if TYPE_CHECKING:
    import pandas as pd

Value = str | float | None
COLUMNS = (
    "sae", "weights_sha256", "architecture", "hook", "property", "case", "metric", "version",
    "value", "ci_low", "ci_high", "ci_level", "unit", "direction", "sequences", "tokens",
    "rule", "gate_verdict", "role", "baseline", "worse_by", "worse_low", "worse_high", "p_adjusted",
    "case_verdict", "note", "dataset", "seed",
)  # fmt: skip
NUMBERS = {
    "version", "value", "ci_low", "ci_high", "ci_level", "sequences", "tokens", "baseline",
    "worse_by", "worse_low", "worse_high", "p_adjusted", "seed",
}  # fmt: skip
FRAME_COLUMNS = (
    "sae", "property", "case", "metric", "value", "ci_low", "ci_high", "unit", "direction",
    "sequences", "tokens", "case_verdict", "note",
)  # fmt: skip


def to_csv(run: Run) -> str:
    """Return one row for each metric and gate of it; cases without any have one, with the reason.

    A metric without a gate has one row, one with a limit and a margin has two. ``worse_by`` is in
    the margin's terms: 0.05 of a relative one is 5% of the baseline. An undefined value is empty;
    ``dataset`` is the fingerprint of the token ids.
    """
    columns = tuple(Column(name, Kind.NUMBER if name in NUMBERS else Kind.TEXT) for name in COLUMNS)
    return csv_table(Table("measurements", "", columns, tuple(_rows(run))))


def to_pandas(run: Run) -> "pd.DataFrame":
    """Return one row for each metric of each case."""
    import pandas as pd

    rows = [
        _of_case(run, case) | _of_metric(metric) for case in run.cases for metric in case.metrics
    ]
    return pd.DataFrame(rows, columns=FRAME_COLUMNS)


def to_html(run: Run) -> str:
    """Return a table of every gate, all text escaped."""
    return notebook_table(gates_table(run))


def _rows(run: Run) -> Iterator[Row]:
    for case in run.cases:
        about = _of_case(run, case)
        if not case.metrics:
            yield _row(about | {"note": case.reason})
        for metric in case.metrics:
            for gate in [g for g in case.gates if g.metric == metric.name] or [None]:
                yield _row(about | _of_metric(metric) | (_of_gate(gate) if gate else {}))


def _row(values: dict[str, Value]) -> Row:
    return Row(tuple(_cell(values.get(name)) for name in COLUMNS))


def _cell(value: Value) -> Cell:
    if value is None or isinstance(value, str):
        return Cell(value or "")
    return Cell(repr(value), value)


def _of_case(run: Run, case: CaseResult) -> dict[str, Value]:
    own = case.about[-1]  # a pair belongs to its second SAE
    sae = next(sae for sae in run.saes if sae.id == own)
    return {
        "sae": case.sae,
        "weights_sha256": sae.weights_sha256,
        "architecture": sae.architecture,
        "hook": sae.hook,
        "property": case.property,
        "case": case.id,
        "case_verdict": case.verdict.value,
        "dataset": case.basis.dataset if case.basis else "",
        "seed": case.basis.seed if case.basis else run.run.seed,
    }


def _of_metric(metric: Metric) -> dict[str, Value]:
    return {
        "metric": metric.name,
        "version": metric.version,
        "value": metric.value,
        "ci_low": metric.ci.low if metric.ci else None,
        "ci_high": metric.ci.high if metric.ci else None,
        "ci_level": metric.ci.level if metric.ci else None,
        "unit": metric.unit,
        "direction": metric.direction.value,
        "sequences": metric.n.sequences,
        "tokens": metric.n.tokens,
        "note": metric.note,
    }


def _of_gate(gate: GateResult) -> dict[str, Value]:
    """Return a gate's verdict, its comparison with the baseline, a secondary one's p-value."""
    evidence = gate.evidence
    adjusted = (evidence.adjusted_within, evidence.adjusted_beyond) if evidence else ()
    p_values = [p for p in adjusted if p is not None]
    return {
        "rule": gate.rule,
        "gate_verdict": gate.verdict.value,
        "role": "secondary" if gate.secondary else "primary",
        "baseline": gate.baseline,
        "worse_by": gate.worse_by,
        "worse_low": gate.worse_ci.low if gate.worse_ci else None,
        "worse_high": gate.worse_ci.high if gate.worse_ci else None,
        "p_adjusted": min(p_values) if len(p_values) == 2 else None,
    }
