"""Cases as JUnit XML, which CI services show."""

from collections.abc import Iterator
from xml.etree import ElementTree as ET

from saebench.records.case_result import CaseResult, GateResult
from saebench.records.run import Run
from saebench.records.verdict import Verdict
from saebench.report.terminal import unjudged_line
from saebench.text import percent

FAILURES = {Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.INCOMPARABLE}


def case_properties(case: CaseResult, *, secondary: bool = True) -> list[tuple[str, str]]:
    """Return names and values of a case's verdict, metrics and gates, as pytest records them.

    An undefined metric has no value, and so no property.

    Args:
        case: the case.
        secondary: include secondary gates, whose verdicts are known once all cases are.
    """
    gates = case.gates if secondary else case.deciding
    return [
        ("saebench_verdict", case.verdict.value),
        ("saebench_sae", case.sae),
        ("saebench_fingerprint", case.fingerprint),
        *_metrics(case),
        *(pair for gate in gates for pair in _gate(gate)),
    ]


def to_junit(run: Run) -> str:
    """Return a run as JUnit XML: a test case for each case, its numbers as properties.

    What fails the run by default is a failure; an ERROR is an error; SKIPPED is skipped.
    """
    suite = ET.Element("testsuite", name="saebench", timestamp=run.run.started)
    for case in run.cases:
        suite.append(_testcase(case))
    left_out = unjudged_line(run)
    if left_out:
        suite.append(_incomplete(left_out))
    for name, verdicts in (
        ("failures", FAILURES),
        ("errors", {Verdict.ERROR}),
        ("skipped", {Verdict.SKIPPED}),
    ):
        count = sum(case.verdict in verdicts for case in run.cases)
        suite.set(name, str(count + (name == "failures" and bool(left_out))))
    suite.set("tests", str(len(run.cases) + bool(left_out)))
    suite.set("time", f"{sum(case.duration_s for case in run.cases):.3f}")
    suites = ET.Element("testsuites")
    suites.append(suite)
    ET.indent(suites)
    return ET.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _gate(gate: GateResult) -> Iterator[tuple[str, str]]:
    name = f"gate: {gate.rule}"
    yield name, gate.shown
    if gate.baseline is not None:
        yield f"{name} baseline", repr(gate.baseline)
    if gate.worse_by is not None:
        yield f"{name} worse by", repr(gate.worse_by)
    if gate.worse_ci is not None:
        yield f"{name} worse by, CI", f"{gate.worse_ci.low!r} {gate.worse_ci.high!r}"


def _metrics(case: CaseResult) -> Iterator[tuple[str, str]]:
    for metric in case.metrics:
        if metric.value is not None:
            yield metric.name, repr(metric.value)
        if metric.ci is not None:
            name = f"{metric.name} {percent(metric.ci.level)} CI"
            yield name, f"{metric.ci.low!r} {metric.ci.high!r}"


def _testcase(case: CaseResult) -> ET.Element:
    element = ET.Element(
        "testcase",
        classname=f"saebench.{case.property}",
        name=_xml(case.id),
        time=f"{case.duration_s:.3f}",
    )
    properties = ET.SubElement(element, "properties")
    for name, value in case_properties(case):
        ET.SubElement(properties, "property", name=_xml(name), value=_xml(value))
    tag = _tag(case.verdict)
    if tag is not None:
        reason = _xml(f"{case.verdict.value}: {case.reason}")
        ET.SubElement(element, tag, message=reason).text = reason
    return element


def _incomplete(left_out: str) -> ET.Element:
    """Return a failed test case for deciding cases that were left out."""
    element = ET.Element("testcase", classname="saebench", name="whole run", time="0.000")
    reason = _xml(f"{Verdict.INCOMPLETE.value}: {left_out}")
    ET.SubElement(element, "failure", message=reason).text = reason
    return element


def _tag(verdict: Verdict) -> str | None:
    if verdict is Verdict.SKIPPED:
        return "skipped"
    if verdict is Verdict.ERROR:
        return "error"
    return "failure" if verdict in FAILURES else None


def _xml(text: str) -> str:
    r"""Return a text that XML can hold: it has no control characters, not even escaped.

    Example:
        >>> _xml("a\x00b")
        'a?b'
    """
    return "".join(c if c in "\t\n" or (c >= " " and not _forbidden(c)) else "?" for c in text)


def _forbidden(character: str) -> bool:
    return "\ud800" <= character <= "\udfff" or character in "\ufffe\uffff"
