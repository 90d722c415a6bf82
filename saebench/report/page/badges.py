"""Verdicts for people: a word, a shape and a colour, each of which suffices."""

from saebench.report.page.markup import Markup, tag
from saebench.results import Verdict

SHAPES = {
    Verdict.PASS: "✓",
    Verdict.FAIL: "✕",
    Verdict.ERROR: "!",
    Verdict.INCONCLUSIVE: "≈",
    Verdict.NEW: "○",
    Verdict.INCOMPARABLE: "≠",
    Verdict.SKIPPED: "–",
}


def badge(verdict: str) -> Markup:
    """Return a verdict as an element; other words are shown as they are."""
    shape = SHAPES[Verdict(verdict)] if verdict in set(Verdict) else ""
    return tag(
        "span", tag("span", shape, aria_hidden="true"), verdict,
        class_=f"badge v-{verdict.lower()}" if shape else "badge",
    )  # fmt: skip
