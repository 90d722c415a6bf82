"""A run as CSV: one row for each metric of each case, for spreadsheets and data frames."""

import csv
from collections.abc import Iterator
from io import StringIO

from saebench.records.run import CaseResult, GateResult, Metric, Run

COLUMNS = (
    "sae", "weights_sha256", "architecture", "hook", "property", "case", "metric", "version",
    "value", "ci_low", "ci_high", "ci_level", "unit", "direction", "sequences", "tokens",
    "rule", "gate_verdict", "role", "baseline", "worse_by", "worse_low", "worse_high", "p_adjusted",
    "case_verdict", "note", "dataset", "seed",
)  # fmt: skip


def to_csv(run: Run) -> str:
    """Return one row for each metric and gate of it; cases without any have one, which says why.

    A metric without a gate has one row, one with a limit and a margin has two. ``worse_by`` is in
    the margin's terms: 0.05 of a relative one is 5% of the baseline.

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
            for gate in [g for g in case.gates if g.metric == metric.name] or [None]:
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
        yield "role", "secondary" if gate.secondary else "primary"
        yield from _held(gate)


def _held(gate: GateResult) -> Iterator[tuple[str, object]]:
    """Give how a gate stands against its baseline, and what a secondary one's p came to."""
    if gate.baseline is not None:
        yield "baseline", repr(gate.baseline)
    if gate.worse_by is not None:
        yield "worse_by", repr(gate.worse_by)
    if gate.worse_ci is not None:
        yield from (
            ("worse_low", repr(gate.worse_ci.low)),
            ("worse_high", repr(gate.worse_ci.high)),
        )
    found = gate.evidence
    if (
        found is not None
        and found.adjusted_within is not None
        and found.adjusted_beyond is not None
    ):
        yield "p_adjusted", repr(min(found.adjusted_within, found.adjusted_beyond))
