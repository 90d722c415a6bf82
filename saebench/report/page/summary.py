"""A page's first screen: verdict, SAE, model, data, what did not pass and why, what changed."""

from collections import Counter
from collections.abc import Iterator

from saebench.records.case_result import CaseResult
from saebench.records.run import Run
from saebench.records.verdict import SEVERITY, Verdict
from saebench.report.markdown import NOT_PASSED
from saebench.report.page.markup import Markup, badge, joined, tag
from saebench.report.page.meaning import meaning
from saebench.report.reproduce import reproduce_lines
from saebench.report.tables import why_of
from saebench.report.terminal import HOW_TO_COMPLETE, data_lines, remarks, unjudged_line

SENTENCES = 8
ANSWERS = {
    Verdict.PASS: "Fit for release",
    Verdict.FAIL: "Do not release",
    Verdict.ERROR: "Could not be judged",
    Verdict.INCONCLUSIVE: "Not decided",
    Verdict.INCOMPLETE: "Not judged as a whole: this decides no release",
    Verdict.INCOMPARABLE: "Not comparable with the baseline",
    Verdict.NEW: "Measured; no limit or baseline to compare with",
    Verdict.SKIPPED: "Nothing was measured",
}


def summary(run: Run) -> Markup:
    """Return the first section of a run's page."""
    verdict = run.verdict
    return tag(
        "section",
        tag("p", badge(verdict.value), class_=f"verdict v-{verdict.value.lower()}"),
        tag("div", tag("h1", _headline(run, verdict)), _about(run), class_="head"),
        meaning(run),
        _reasons(run),
        _changes(run),
        _notes(run),
        id="summary", class_="summary", aria_label="Summary",
    )  # fmt: skip


def _headline(run: Run, verdict: Verdict) -> str:
    if len(run.saes) == 1:
        return f"{run.saes[0].id}: {ANSWERS[verdict].lower()}"
    counts = Counter(run.verdict_of(sae.id) for sae in run.saes)
    parts = [f"{n} {v.value}" for v, n in sorted(counts.items(), key=lambda c: -SEVERITY[c[0]])]
    return f"{len(run.saes)} SAEs: {', '.join(parts)}"


def _about(run: Run) -> Markup:
    """Return SAE, model and data."""
    unfinished = " · the run was not finished" if run.run.was_interrupted else ""
    facts = {
        "SAE": _saes(run),
        "Model": ", ".join(f"{m.name} ({m.dtype}, {m.device})" for m in run.models),
        "Data": "; ".join(dict.fromkeys(data_lines(run))),
        "Run": f"{run.run.started[:16].replace('T', ' ')} · saebench "
        f"{run.harness.get('version', '?')}{unfinished}",
    }
    rows = [joined(tag("dt", name), tag("dd", text)) for name, text in facts.items() if text]
    return tag("dl", *rows, class_="facts")


def _saes(run: Run) -> str:
    if len(run.saes) == 1:
        sae = run.saes[0]
        context = f", trained on {sae.training_context} tokens" if sae.training_context else ""
        return f"{sae.architecture}, {sae.d_sae:,} features, {sae.hook}{context} ({sae.source})"
    hooks = {sae.hook for sae in run.saes}
    kinds = sorted({sae.architecture for sae in run.saes})
    return f"{', '.join(kinds)}; at {len(hooks)} hook{'s' if len(hooks) > 1 else ''}"


def _reasons(run: Run) -> Markup:
    """Return what did not pass, in words, the worst first."""
    bad = [case for case in run.worst_first() if case.verdict in NOT_PASSED]
    left_out = unjudged_line(run)
    if left_out and not bad:
        text = f"Every gate that was decided passed. Left out, {left_out}; {HOW_TO_COMPLETE}."
        return tag("div", tag("h2", "What was left out"), tag("p", text))
    if not bad:
        good = tag("p", "Every gate that was decided passed.", class_="good")
        return tag("div", tag("h2", "What did not pass"), good)
    items = [_reason(case) for case in bad]
    rest = items[SENTENCES:]
    omitted = tag("p", f"Also {left_out}.") if left_out else ""
    more = tag("details", tag("summary", f"{len(rest)} more"), tag("ul", *rest, class_="reasons"))
    again = [line.split(": pytest ", 1) for line in reproduce_lines(run)]
    lines = [tag("li", id, tag("code", f"pytest {line}")) for id, line in again]
    listed = tag("ul", *lines, class_="commands")
    commands = tag("details", tag("summary", "Measure them again"), listed)
    return tag(
        "div", tag("h2", "What did not pass"), tag("ul", *items[:SENTENCES], class_="reasons"),
        more if rest else "", omitted, commands if again else "",
    )  # fmt: skip


def _reason(case: CaseResult) -> Markup:
    link = tag("a", case.id, href=f"#{case.property.replace('_', '-')}")
    whys = [f"Why {gate.limit}: {why}" for gate in case.deciding if (why := why_of(gate))]
    limits = (joined(tag("br"), tag("small", why)) for why in whys)
    return tag("li", badge(case.verdict.value), tag("span", link, ": ", case.reason, *limits))


def _changes(run: Run) -> Markup:
    """Return the gates that moved from their baseline, by how many widths of the interval."""
    moved = list(_moved(run))
    if not moved:
        return tag("p", "No baseline was compared with this run.", class_="note")
    moved.sort(key=lambda row: -row[0])
    items = [tag("li", line) for _, line in moved[:SENTENCES]]
    return tag("div", tag("h2", "Against the baseline"), tag("ul", *items))


def _moved(run: Run) -> Iterator[tuple[float, str]]:
    for case in run.cases:
        for gate in case.gates:
            by = gate.change
            if by is None or gate.baseline is None:
                continue
            if gate.worse_by is not None and gate.worse_ci is not None:
                width = gate.worse_ci.high - gate.worse_ci.low
                yield abs(gate.worse_by) / (width or 1.0), f"{case.sae}: {gate.sentence}"
                continue
            width = (gate.ci.high - gate.ci.low) if gate.ci else abs(gate.baseline)
            line = (
                f"{case.sae}: {gate.metric} {gate.baseline:.4g} → {gate.observed:.4g} ({by:+.3g})"
            )
            yield abs(by) / (width or 1.0), line


def _notes(run: Run) -> Markup:
    """Return the notes on SAEs and texts, and folded the properties' own remarks."""
    notes = [f"{sae.id}: {note}" for sae in run.saes for note in sae.notes]
    listed = tag("ul", *(tag("li", note) for note in notes), class_="notes") if notes else ""
    items = [tag("li", sentence) for sentence in remarks(run)]
    folded = tag("details", tag("summary", f"{len(items)} notes"), tag("ul", *items))
    return joined(listed, folded if items else "")
