"""A run as an HTML table and as a data frame, for notebooks."""

from html import escape
from typing import TYPE_CHECKING

from saebench.records.run import Metric, Run
from saebench.report.queries import interval_heading
from saebench.report.terminal import COLOURS

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "sae", "property", "case", "metric", "value", "ci_low", "ci_high", "unit", "direction",
    "sequences", "tokens", "case_verdict", "note",
)  # fmt: skip
_CSS = {"green": "#1a7f37", "bold red": "#cf222e", "yellow": "#9a6700", "cyan": "#0969da"}


def to_html(run: Run) -> str:
    """Return a table of every gate, all text escaped."""
    rows = []
    for case in run.cases:
        for gate in case.gates or (None,):
            verdict = gate.verdict if gate else case.verdict
            colour = _CSS.get(COLOURS[verdict], "#57606a")
            metric = next((m for m in case.metrics if gate and m.name == gate.metric), None)
            cells = (
                case.sae,
                gate.metric if gate else case.property,
                _value(metric),
                _interval(metric),
                gate.limit if gate else "",
            )
            told = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
            shown = gate.shown if gate else verdict.value
            rows.append(f"<tr>{told}<td style='color:{colour}'><b>{shown}</b></td></tr>")
    heads = ("SAE", "metric", "value", interval_heading(run.cases), "limit", "verdict")
    head = "".join(f"<th>{name}</th>" for name in heads)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def to_pandas(run: Run) -> "pd.DataFrame":
    """Return one row for each metric of each case."""
    import pandas as pd

    rows = [
        {
            "sae": case.sae,
            "property": case.property,
            "case": case.id,
            "metric": metric.name,
            "value": metric.value,
            "ci_low": metric.ci.low if metric.ci else None,
            "ci_high": metric.ci.high if metric.ci else None,
            "unit": metric.unit,
            "direction": metric.direction.value,
            "sequences": metric.n.sequences,
            "tokens": metric.n.tokens,
            "case_verdict": case.verdict.value,
            "note": metric.note,
        }
        for case in run.cases
        for metric in case.metrics
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _value(metric: Metric | None) -> str:
    return "" if metric is None or metric.value is None else f"{metric.value:.4g} {metric.unit}"


def _interval(metric: Metric | None) -> str:
    return f"[{metric.ci.low:.3g}, {metric.ci.high:.3g}]" if metric and metric.ci else ""
