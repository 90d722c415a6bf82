"""The decisions of a run as tables: every gate, and every metric."""

from collections.abc import Iterator

from saebench.records.run import SEVERITY, CaseResult, GateResult, Metric, Run, Verdict
from saebench.report.charts import Cell, Table
from saebench.report.terminal import ARROWS

NONE = Cell("–")
SECONDARY = ", secondary"


def gates_table(run: Run) -> Table:
    """Return every gate of the run, and every case that has none, the worst first."""
    undecided = (Verdict.NEW, Verdict.SKIPPED)  # nothing is held against them: they come last
    rows = sorted(
        _decisions(run),
        key=lambda row: (
            row[-1] in undecided,
            str(row[1]).endswith(SECONDARY),
            -SEVERITY[Verdict(row[-1])],
        ),
    )
    columns = ("SAE", "case", "metric", "value", "CI", "limit", "baseline", "Δ", "verdict")
    note = (
        "↓ lower is better, ↑ higher, → a target; Δ is against the baseline; secondary gates are "
        "corrected for how many there are, and decide nothing"
    )
    return Table("gates", "Every decision", columns, tuple(rows), note=note, filters=("verdict",))


def metrics_table(cases: list[CaseResult], about: str) -> Table:
    """Return every metric of a property's cases."""
    rows = [_metric_row(case, metric) for case in cases for metric in case.metrics]
    columns = ("SAE", "case", "metric", "value", "unit", "CI", "n", "note")
    return Table(f"metrics-{about.replace('_', '-')}", "Every metric", columns, tuple(rows))


def _decisions(run: Run) -> Iterator[tuple[str | Cell, ...]]:
    for case in run.cases:
        if not case.gates:
            why = case.reason if case.error else ""
            yield case.sae, case.kind, why, NONE, NONE, "", NONE, NONE, case.verdict.value
        for gate in case.gates:
            metric = next((m for m in case.metrics if m.name == gate.metric), None)
            yield _gate_row(case, gate, metric)


def _gate_row(case: CaseResult, gate: GateResult, metric: Metric | None) -> tuple[str | Cell, ...]:
    unit = metric.unit if metric else ""
    arrow = f" {ARROWS[metric.direction]}" if metric else ""
    return (
        case.sae,
        case.kind + (SECONDARY if gate.secondary else ""),
        gate.metric + arrow,
        number(gate.observed, unit),
        Cell(f"[{gate.ci.low:.4g}, {gate.ci.high:.4g}]", gate.ci.low) if gate.ci else NONE,
        gate.limit,
        number(gate.baseline, unit),
        number(change(gate), unit, signed=True),
        gate.verdict.value,
    )


def _metric_row(case: CaseResult, metric: Metric) -> tuple[str | Cell, ...]:
    ci = metric.ci
    return (
        case.sae,
        case.kind,
        f"{metric.name} {ARROWS[metric.direction]}",
        number(metric.value, ""),
        metric.unit,
        Cell(f"[{ci.low:.4g}, {ci.high:.4g}]", ci.low) if ci else NONE,
        Cell(f"{metric.n.sequences:,}", metric.n.sequences),
        metric.note or "",
    )


def change(gate: GateResult) -> float | None:
    """Return how far the gated metric is from its baseline; None where there is none."""
    if gate.baseline is None or gate.observed is None:
        return None
    return gate.observed - gate.baseline


def number(value: float | None, unit: str, *, signed: bool = False) -> Cell:
    """Return a number with its unit, to sort by its value."""
    if value is None:
        return NONE
    shown = f"{value:+.4g}" if signed else f"{value:.4g}"
    return Cell(f"{shown} {unit}" if unit in ("nats", "×") else shown, value)
