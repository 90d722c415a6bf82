"""The first screen: verdict, SAE, model, data, what fails and why, what changed."""

from collections import Counter
from collections.abc import Iterator

from saebench.records.run import SEVERITY, CaseResult, Run, Verdict, overall
from saebench.report.charts import Cell, Table
from saebench.report.page.markup import SHAPES, Markup, badge, joined, tag
from saebench.report.queries import by_depth
from saebench.report.reproduce import reproduce_lines
from saebench.report.tables.decisions import change
from saebench.report.terminal import data_lines, told

SENTENCES = 8
BAD = (Verdict.ERROR, Verdict.FAIL, Verdict.INCOMPARABLE, Verdict.INCONCLUSIVE)
ANSWERS = {
    Verdict.PASS: "Fit for release",
    Verdict.FAIL: "Do not release",
    Verdict.ERROR: "Could not be judged",
    Verdict.INCONCLUSIVE: "Not decided",
    Verdict.INCOMPARABLE: "Not comparable with the baseline",
    Verdict.NEW: "Measured; nothing to hold it against",
    Verdict.SKIPPED: "Nothing was measured",
}


def summary(run: Run) -> Markup:
    """Return what a reader sees first."""
    verdict = verdict_of(run)
    return tag(
        "section",
        tag("p", badge(verdict.value), class_=f"verdict v-{verdict.value.lower()}"),
        tag("div", tag("h1", _headline(run, verdict)), _about(run), class_="head"),
        _reasons(run),
        _changes(run),
        _told(run),
        id="summary", class_="summary", aria_label="Summary",
    )  # fmt: skip


def verdict_of(run: Run, sae: str | None = None) -> Verdict:
    """Return what a run, or one of its SAEs, comes to."""
    return overall(case.verdict for case in run.cases if sae in (None, case.sae))


def _headline(run: Run, verdict: Verdict) -> str:
    if len(run.saes) == 1:
        return f"{run.saes[0].id}: {ANSWERS[verdict].lower()}"
    counts = Counter(verdict_of(run, sae.id) for sae in run.saes)
    told = [f"{n} {v.value}" for v, n in sorted(counts.items(), key=lambda c: -SEVERITY[c[0]])]
    return f"{len(run.saes)} SAEs: {', '.join(told)}"


def _about(run: Run) -> Markup:
    """Return SAE, model and data."""
    unfinished = "" if run.run.complete else " · the run was not finished"
    facts = {
        "SAE": _saes(run),
        "Model": ", ".join(f"{m.name} ({m.dtype}, {m.device})" for m in run.models),
        "Data": "; ".join(dict.fromkeys(data_lines(run))),
        "Run": f"{run.run.started[:16].replace('T', ' ')} · saebench "
        f"{run.harness.get('version', '?')}{unfinished}",
    }
    rows = [joined(tag("dt", name), tag("dd", told)) for name, told in facts.items() if told]
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
    bad = sorted((c for c in run.cases if c.verdict in BAD), key=lambda c: -SEVERITY[c.verdict])
    if not bad:
        told = tag("p", "Every gate that was decided passed.", class_="good")
        return tag("div", tag("h2", "What did not pass"), told)
    items = [_reason(case) for case in bad]
    rest = items[SENTENCES:]
    more = tag("details", tag("summary", f"{len(rest)} more"), tag("ul", *rest, class_="reasons"))
    again = [line.split(": pytest ", 1) for line in reproduce_lines(run)]
    lines = [tag("li", id, tag("code", f"pytest {line}")) for id, line in again]
    listed = tag("ul", *lines, class_="commands")
    commands = tag("details", tag("summary", "Measure them again"), listed)
    return tag(
        "div", tag("h2", "What did not pass"), tag("ul", *items[:SENTENCES], class_="reasons"),
        more if rest else "", commands if again else "",
    )  # fmt: skip


def _reason(case: CaseResult) -> Markup:
    link = tag("a", case.id, href=f"#{case.property.replace('_', '-')}")
    return tag("li", badge(case.verdict.value), tag("span", link, ": ", case.reason))


def _changes(run: Run) -> Markup:
    """Return the gates that moved against their baseline, by how far in units of the interval."""
    moved = list(_moved(run))
    if not moved:
        return tag("p", "No baseline was held against this run.", class_="note")
    moved.sort(key=lambda row: -row[0])
    items = [tag("li", line) for _, line in moved[:SENTENCES]]
    return tag("div", tag("h2", "Against the baseline"), tag("ul", *items))


def _moved(run: Run) -> Iterator[tuple[float, str]]:
    for case in run.cases:
        for gate in case.gates:
            by = change(gate)
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


def _told(run: Run) -> Markup:
    """Return what is odd about the SAEs and their texts, and what properties say, folded."""
    odd = [f"{sae.id}: {note}" for sae in run.saes for note in sae.notes]
    said = list(told(run))
    seen = tag("ul", *(tag("li", note) for note in odd), class_="notes") if odd else ""
    items = tag("ul", *(tag("li", sentence) for sentence in said))
    folded = tag("details", tag("summary", f"{len(said)} notes"), items) if said else ""
    return joined(seen, folded)


def matrix(run: Run) -> Table:
    """Return a row for each SAE, the worst first, with the verdict of each property."""
    names = list(dict.fromkeys(case.property for case in run.cases))
    about = {sae.id: sae for sae in run.saes}
    order = sorted(by_depth(run.saes), key=lambda id: -SEVERITY[verdict_of(run, id)])
    found: dict[tuple[str, str], list[Verdict]] = {}
    for case in run.cases:
        found.setdefault((case.sae, case.property), []).append(case.verdict)
    rows = [
        (id, verdict_of(run, id).value, about[id].architecture, about[id].hook,
         *(_cell(found.get((id, name), [])) for name in names))
        for id in order
    ]  # fmt: skip
    columns = ("SAE", "verdict", "architecture", "hook", *names)
    shapes = ", ".join(f"{shape} {verdict.value}" for verdict, shape in SHAPES.items())
    filters = ("verdict", "architecture", "hook")
    return Table("saes", "Every SAE", columns, tuple(rows), note=shapes, filters=filters)


def _cell(verdicts: list[Verdict]) -> str | Cell:
    if not verdicts:
        return Cell("")
    verdict = overall(verdicts)
    return Cell(f"{SHAPES[verdict]} {verdict.value.lower()}", -SEVERITY[verdict])
