"""A run as Markdown: for a pull request, a release note, a CI job's page."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from saebench.records.case_result import CaseResult
from saebench.records.inputs import SubjectRecord
from saebench.records.run import Run
from saebench.records.verdict import Verdict
from saebench.report.style import LOOKS
from saebench.report.tables import why_of
from saebench.report.tables.run_tables import gates_table, overview_table
from saebench.report.tables.text_tables import code, escaped, markdown_table
from saebench.report.terminal import lowered_minimum, unjudged_line

NOT_PASSED = (Verdict.ERROR, Verdict.FAIL, Verdict.INCOMPARABLE, Verdict.INCONCLUSIVE)


def to_markdown(run: Run, *, places: Sequence[str] = (), detailed: bool = True) -> str:
    """Return a run's verdicts as GitHub-flavoured Markdown; names are escaped.

    Args:
        run: the run.
        places: sentences about the leaderboard.
        detailed: add every gate, and the model, data and versions.
    """
    overview = overview_table(run)
    blocks = [
        _heading(run),
        markdown_table(overview) if overview.rows else "",
        escaped(lowered_minimum(run) or ""),
        "\n".join(f"- {code(sae.id)}: {escaped(note)}" for sae in run.judged for note in sae.notes),
        _reasons(run),
        "\n".join(f"- {escaped(place)}" for place in places),
    ]
    if detailed:
        blocks += [_every_gate(run), _folded("What was measured with what", _method(run))]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _heading(run: Run) -> str:
    passed = sum(run.verdict_of(sae.id) is Verdict.PASS for sae in run.judged)
    left_out = unjudged_line(run)
    unfinished = " The run was not finished." if run.run.was_interrupted else ""
    unfinished += f" {escaped(left_out[0].upper() + left_out[1:])}." if left_out else ""
    counted = f"{passed} of {len(run.judged)} SAEs passed."
    sign = LOOKS[run.verdict].sign
    return f"## saebench: {sign} {run.verdict.value}\n\n{counted}{unfinished}"


def _reasons(run: Run) -> str:
    lines = [line for c in run.worst_first() if c.verdict in NOT_PASSED for line in _reason(c)]
    return "### Not passed\n\n" + "\n".join(lines) if lines else ""


def _reason(case: CaseResult) -> Iterator[str]:
    """Yield what did not pass, and below it why its limits exist."""
    yield f"- **{case.verdict.value}** {code(case.id)}: {escaped(case.reason)}"
    for gate in case.deciding:
        if why := why_of(gate):
            yield f"  - the limit {escaped(gate.limit)}: {escaped(why)}"


def _every_gate(run: Run) -> str:
    gates = gates_table(run)
    decided = tuple(row for row in gates.rows if gates.cell(row, "metric").text)
    return _folded("Every gate", markdown_table(replace(gates, rows=decided)))


def _method(run: Run) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in run.env.items())
    lines = [
        *(f"- model: {escaped(model.name)} `{model.weights_sha256[:8]}`, {model.dtype}, "
          f"{escaped(model.device)}" for model in run.models),
        *(f"- data: {escaped(data.name)}, {data.sequences} sequences of {data.context} tokens "
          f"`{data.fingerprint[:8]}`" for data in run.datasets),
        *(f"- SAE: {_described(sae)}" for sae in run.judged),
        f"- saebench {run.harness.get('version', '?')}, {escaped(versions)}",
        f"- seed {run.run.seed}, {escaped(run.run.started)}",
    ]  # fmt: skip
    return "\n".join(lines)


def _described(sae: SubjectRecord) -> str:
    shape = f"{sae.architecture}, {sae.d_sae} features, {sae.hook}"
    return f"{code(sae.id)} `{sae.weights_sha256[:8]}`, {escaped(shape)}"


def _folded(summary: str, text: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{text}\n\n</details>"
