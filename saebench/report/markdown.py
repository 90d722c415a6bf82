"""A run as Markdown: for a pull request, a release note, a CI job's page."""

import re
from collections.abc import Sequence

from saebench.records.run import (
    SEVERITY,
    CaseResult,
    GateResult,
    Metric,
    Run,
    SubjectRecord,
    Verdict,
    overall,
)
from saebench.report.style import plain_text
from saebench.report.terminal import ARROWS

SIGNS = {
    Verdict.PASS: "✅",
    Verdict.FAIL: "❌",
    Verdict.ERROR: "💥",
    Verdict.INCONCLUSIVE: "❔",
    Verdict.INCOMPARABLE: "❔",
    Verdict.NEW: "🆕",
    Verdict.SKIPPED: "➖",
}
UNDECIDED = (Verdict.ERROR, Verdict.FAIL, Verdict.INCOMPARABLE, Verdict.INCONCLUSIVE)
_SPECIAL = re.compile(r"([\\`*_\[\]#|~<>&]|^[-+])")
_NUMBERED = re.compile(r"^(\d+)([.)])")


def to_markdown(run: Run, *, places: Sequence[str] = (), detailed: bool = True) -> str:
    """Return a run's verdicts as GitHub-flavoured Markdown; names are escaped.

    Args:
        run: what was found.
        places: sentences about the leaderboard.
        detailed: add every gate, and what was measured with what.
    """
    blocks = [_heading(run), _overview(run), _notes(run), _reasons(run)]
    if places:
        blocks.append("\n".join(f"- {escaped(place)}" for place in places))
    if detailed:
        blocks += [_every_gate(run), _method(run)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def escaped(text: str) -> str:
    r"""Return a text that Markdown shows as it is, on one line.

    Example:
        >>> escaped("a|b <img> _c_")
        'a\\|b \\<img\\> \\_c\\_'
    """
    shown = _SPECIAL.sub(r"\\\1", plain_text(" ".join(text.split())))
    return _NUMBERED.sub(r"\1\\\2", shown)


def code(text: str) -> str:
    r"""Return a name as code: no Markdown, HTML or @mention in it comes to life.

    Example:
        >>> code("a|b@c")
        '`a\\|b@c`'
    """
    name = plain_text(" ".join(text.split())).replace("`", "'").replace("|", r"\|")
    return f"`{name}`"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: int = 0) -> str:
    """Return a table; the last ``numbers`` columns are aligned to the right.

    Example:
        >>> print(table(["a", "b"], [["x", "1"]], numbers=1))
        | a | b |
        |---|--:|
        | x | 1 |
    """
    rule = ["---"] * (len(head) - numbers) + ["--:"] * numbers
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join(rule)}|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


def _heading(run: Run) -> str:
    verdict = overall(case.verdict for case in run.cases)
    saes = _judged(run)
    passed = sum(_verdict(run, sae) is Verdict.PASS for sae in saes)
    unfinished = "" if run.run.complete else " The run was not finished."
    counted = f"{passed} of {len(saes)} SAEs passed."
    return f"## saebench: {SIGNS[verdict]} {verdict.value}\n\n{counted}{unfinished}"


def _overview(run: Run) -> str:
    """Return one row for each SAE, the worst first: its verdict and every gated metric."""
    names = list(dict.fromkeys(gate.metric for case in run.cases for gate in case.deciding))
    head = ["SAE", "verdict", *(f"{code(name)}{_arrow(run, name)}" for name in names)]
    rows = []
    for sae in sorted(_judged(run), key=lambda sae: -SEVERITY[_verdict(run, sae)]):
        verdict = _verdict(run, sae)
        cells = [_gate_cell(run, sae, name) for name in names]
        rows.append([code(sae.id), f"{SIGNS[verdict]} {verdict.value}", *cells])
    return table(head, rows, numbers=len(names)) if rows else ""


def _notes(run: Run) -> str:
    """Return what is odd about the SAEs and their texts."""
    notes = [(sae, note) for sae in _judged(run) for note in sae.notes]
    return "\n".join(f"- {code(sae.id)}: {escaped(note)}" for sae, note in notes)


def _reasons(run: Run) -> str:
    cases = sorted(run.cases, key=lambda case: -SEVERITY[case.verdict])
    told = [
        f"- **{case.verdict.value}** {code(case.id)}: {escaped(case.reason)}"
        for case in cases
        if case.verdict in UNDECIDED
    ]
    return "### Not passed\n\n" + "\n".join(told) if told else ""


def _every_gate(run: Run) -> str:
    rows = [
        [
            code(case.id),
            code(gate.rule),
            _shown(_metric(case, gate.metric)),
            *_held(gate),
            gate.shown,
        ]
        for case in sorted(run.cases, key=lambda case: -SEVERITY[case.verdict])
        for gate in case.gates
    ]
    head = ["case", "rule", "observed", "baseline", "worse by", "verdict"]
    return _folded("Every gate", table(head, rows))


def _held(gate: GateResult) -> tuple[str, str]:
    """Return the baseline's value, and by how much the metric is worse, with its interval."""
    if gate.baseline is None or gate.worse_by is None:
        return "–", "–"
    scale, unit = (100, "%") if gate.limit.endswith("%") else (1, "")
    ci = gate.worse_ci
    interval = f" [{scale * ci.low:.3g}, {scale * ci.high:.3g}]" if ci else ""
    return f"{gate.baseline:.4g}", f"{scale * gate.worse_by:.3g}{unit}{interval}"


def _method(run: Run) -> str:
    lines = [
        f"- model: {escaped(model.name)} `{model.weights_sha256[:8]}`, {model.dtype}, "
        f"{escaped(model.device)}"
        for model in run.models
    ]
    lines += [
        f"- data: {escaped(data.name)}, {data.sequences} sequences of {data.context} tokens "
        f"`{data.fingerprint[:8]}`"
        for data in run.datasets
    ]
    lines += [f"- SAE: {_described(sae)}" for sae in _judged(run)]
    versions = ", ".join(f"{name} {version}" for name, version in run.env.items())
    lines.append(f"- saebench {run.harness.get('version', '?')}, {escaped(versions)}")
    lines.append(f"- seed {run.run.seed}, {escaped(run.run.started)}")
    return _folded("What was measured with what", "\n".join(lines))


def _described(sae: SubjectRecord) -> str:
    shape = f"{sae.architecture}, {sae.d_sae} features, {sae.hook}"
    return f"{code(sae.id)} `{sae.weights_sha256[:8]}`, {escaped(shape)}"


def _folded(summary: str, text: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{text}\n\n</details>"


def _judged(run: Run) -> list[SubjectRecord]:
    judged = {case.sae for case in run.cases}
    return [sae for sae in run.saes if sae.id in judged]


def _verdict(run: Run, sae: SubjectRecord) -> Verdict:
    return overall(case.verdict for case in run.cases if case.sae == sae.id)


def _gate_cell(run: Run, sae: SubjectRecord, name: str) -> str:
    """Return the metric's value, with a sign where its gate did not pass."""
    for case in run.cases:
        gate = next((gate for gate in case.deciding if gate.metric == name), None)
        if case.sae == sae.id and gate is not None:
            sign = "" if gate.verdict is Verdict.PASS else f" {SIGNS[gate.verdict]}"
            return _shown(_metric(case, name)) + sign
    return "–"


def _metric(case: CaseResult, name: str) -> Metric | None:
    return next((metric for metric in case.metrics if metric.name == name), None)


def _shown(metric: Metric | None) -> str:
    if metric is None or metric.value is None:
        return "undefined" if metric and metric.note else "not measured"
    interval = f" [{metric.ci.low:.3g}, {metric.ci.high:.3g}]" if metric.ci else ""
    return f"{metric.value:.4g}{interval}"


def _arrow(run: Run, name: str) -> str:
    found = (_metric(case, name) for case in run.cases)
    metric = next((metric for metric in found if metric is not None), None)
    return f" {ARROWS[metric.direction]}" if metric else ""
