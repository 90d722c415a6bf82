"""A run as CSV: one row for each metric of each case, for spreadsheets and data frames."""

import csv
from collections.abc import Iterator
from io import StringIO

from saebench.results import CaseResult, GateResult, Metric, Run

COLUMNS = (
    "sae", "weights_sha256", "architecture", "hook", "property", "case", "metric", "version",
    "value", "ci_low", "ci_high", "ci_level", "unit", "direction", "sequences", "tokens",
    "rule", "gate_verdict", "case_verdict", "note", "dataset", "seed",
)  # fmt: skip


def to_csv(run: Run) -> str:
    """Return one row for each metric; cases without any have one too, which says why.

    An undefined value is empty; ``dataset`` is the fingerprint of the token ids.
    """
    text = StringIO()
    writer: csv.DictWriter[str] = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for case in run.cases:
        about = _about(run, case)
        if not case.metrics:
            writer.writerow(about | {"note": _text(case.reason)})
        for metric in case.metrics:
            gate = next((g for g in case.gates if g.metric == metric.name), None)
            writer.writerow(about | dict(_cells(metric, gate)))
    return text.getvalue()


def _text(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula: quoted where it begins like one.

    Example:
        >>> _text("=1+1"), _text("l2-topk")
        ("'=1+1", 'l2-topk')
    """
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _about(run: Run, case: CaseResult) -> dict[str, object]:
    own = case.params.get("second", case.sae)  # a pair belongs to its second SAE
    sae = next(sae for sae in run.saes if sae.id == own)
    return {
        "sae": _text(case.sae),
        "weights_sha256": sae.weights_sha256,
        "architecture": _text(sae.architecture),
        "hook": _text(sae.hook),
        "property": case.property,
        "case": _text(case.id),
        "case_verdict": case.verdict.value,
        "dataset": case.basis.dataset if case.basis else "",
        "seed": case.basis.seed if case.basis else run.run.seed,
    }


def _cells(metric: Metric, gate: GateResult | None) -> Iterator[tuple[str, object]]:
    yield from (("metric", metric.name), ("version", metric.version), ("unit", metric.unit))
    yield "direction", metric.direction.value
    yield from (("sequences", metric.n.sequences), ("tokens", metric.n.tokens))
    yield "note", _text(metric.note or "")
    if metric.value is not None:
        yield "value", repr(metric.value)
    if metric.ci is not None:
        yield from (("ci_low", repr(metric.ci.low)), ("ci_high", repr(metric.ci.high)))
        yield "ci_level", metric.ci.level
    if gate is not None:
        yield from (("rule", gate.rule), ("gate_verdict", gate.verdict.value))
