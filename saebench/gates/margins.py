"""Margins: by how much a metric may be worse than its baseline."""

import math
from dataclasses import dataclass

from saebench.errors import ThresholdError
from saebench.gates.rules import Margin, Rule
from saebench.gates.verdicts import further_sequences
from saebench.records.run import Direction, GateResult, Interval, Metric, Verdict

# What is left between two runs on the same tokens with the same seed: other batch sizes take
# other matrix kernels, and fp32 sums differ in their last bits (tests/substitution/test_engine.py).
RERUN_NOISE = 1e-6
TIMES = 3
LEAST = TIMES * RERUN_NOISE


@dataclass(frozen=True)
class Against:
    """How a metric stands against its baseline.

    Attributes:
        label: which SAE the baseline is of.
        baseline: the metric's value there.
        worse_by: how much worse it is now; a share of the baseline where the margin is one.
        ci: interval of that, paired over sequences where both sides' sums are at hand.
        paired: they were.
        noise: by how much of the same a run again differs, as was measured; None where that is
            not known.
    """

    label: str
    baseline: float
    worse_by: float
    ci: Interval | None
    paired: bool
    noise: float | None = None


@dataclass(frozen=True)
class NotHeld:
    """Why a metric cannot be held against a baseline: NEW, or INCOMPARABLE."""

    verdict: Verdict
    reason: str


def check_margin(rule: Rule, direction: Direction, *, where: str) -> None:
    """Refuse a margin that allows what is better, or that is below what re-running changes.

    Raises:
        ThresholdError: naming the rule.
    """
    margin = rule.margin
    if margin is None:
        return
    sign = {Direction.LOWER: "+", Direction.HIGHER: "-"}.get(direction)
    if sign is not None and margin.sign != sign:
        better = "lower" if sign == "+" else "higher"
        raise ThresholdError(
            f"{where}: {rule.text!r}: {better} is better for {rule.metric}, so that worse is "
            f"{sign}: write {rule.metric}:{sign}{margin.shown}"
        )
    if margin.relative and margin.by < LEAST:
        raise ThresholdError(
            f"{where}: {rule.text!r}: a margin below {LEAST:.1g} of the value is within what "
            f"running again changes ({RERUN_NOISE:g}); allow more"
        )


def decide_margin(rule: Rule, metric: Metric | None, against: Against | NotHeld) -> GateResult:
    """Return the verdict of a margin: non-inferiority.

    PASS where the whole interval of how much worse the metric is lies within the margin, FAIL
    where it lies beyond, INCONCLUSIVE where it straddles it.

    Args:
        rule: with a margin.
        metric: of this run.
        against: how it stands against the baseline.

    Source:
        METRICS.md 4.
    """
    assert rule.margin is not None
    if metric is None or metric.value is None:
        return _without_value(rule, metric)
    if isinstance(against, NotHeld):
        return _result(rule, metric, None, against.verdict, f"{rule.metric}: {against.reason}.")
    margin = rule.margin.by
    noise = _noise(rule.margin, against)
    if margin < TIMES * noise:
        text = (
            f"{rule.metric}: the margin of {rule.margin.shown} is less than {TIMES} times what "
            f"running again changes, which is {_amount(noise, rule.margin)}: it would be decided "
            "by chance; allow more."
        )
        return _result(rule, metric, against, Verdict.ERROR, text)
    ci = against.ci
    if ci is None or not (math.isfinite(ci.low) and math.isfinite(ci.high)):
        text = f"{_told(rule, metric, against)} has no interval. Measure on more sequences."
        return _result(rule, metric, against, Verdict.INCONCLUSIVE, text)
    if ci.high <= margin:
        return _result(rule, metric, against, Verdict.PASS, _said(rule, metric, against, "within"))
    if ci.low > margin:
        text = _said(rule, metric, against, "beyond")
        return _result(rule, metric, against, Verdict.FAIL, text)
    more = further_sequences(against.worse_by, ci, margin, metric.n.sequences)
    needed = (
        "The difference is at the margin: no number of sequences would settle it."
        if math.isinf(more)
        else f"About {more:.0f} more sequences would settle it."
    )
    text = f"{_told(rule, metric, against)} straddles the margin of {rule.margin.shown}. {needed}"
    return _result(rule, metric, against, Verdict.INCONCLUSIVE, text)


def _noise(margin: Margin, against: Against) -> float:
    """Return what running again changes, in the margin's terms: as measured, or at the least."""
    least = RERUN_NOISE if margin.relative else RERUN_NOISE * abs(against.baseline)
    return max(least, against.noise or 0.0)


def _amount(value: float, margin: Margin) -> str:
    return f"{100 * value:.2g}%" if margin.relative else f"{value:.2g}"


def _without_value(rule: Rule, metric: Metric | None) -> GateResult:
    if metric is not None and metric.stand is not None:
        # What stands in for it decides its limit; of what is undefined there is no margin.
        text = f"{rule.metric} is {metric.note}: there is nothing to hold against the baseline."
        return _result(rule, metric, None, Verdict.NEW, text)
    why = metric.note if metric and metric.note else "it was not reported by this run"
    return _result(rule, metric, None, Verdict.ERROR, f"{rule.metric}: {why}.")


def _said(rule: Rule, metric: Metric, against: Against, relation: str) -> str:
    assert rule.margin is not None
    return f"{_told(rule, metric, against)} is {relation} the margin of {rule.margin.shown}."


def _told(rule: Rule, metric: Metric, against: Against) -> str:
    """Say by how much the metric is worse or better, in words."""
    assert rule.margin is not None
    ci, by = against.ci, against.worse_by
    scale, unit = (100, "%") if rule.margin.relative else (1, "")
    word, sign = ("worse", 1) if by >= 0 else ("better", -1)
    interval = ""
    if ci is not None:
        low, high = sorted((sign * scale * ci.low, sign * scale * ci.high))
        interval = f" [{low:.3g}, {high:.3g}]"
    how = "" if against.paired else ", unpaired,"
    return (
        f"{metric.name} = {metric.value:.4g} against {against.baseline:.4g} of {against.label}: "
        f"{sign * scale * by:.3g}{unit}{interval} {word}{how}"
    )


def _result(
    rule: Rule,
    metric: Metric | None,
    against: Against | NotHeld | None,
    verdict: Verdict,
    text: str,
) -> GateResult:
    held = against if isinstance(against, Against) else None
    return GateResult(
        rule=rule.text,
        metric=rule.metric,
        observed=metric.value if metric else None,
        ci=metric.ci if metric else None,
        limit=rule.limit,
        baseline=held.baseline if held else None,
        verdict=verdict,
        sentence=text,
        worse_by=held.worse_by if held else None,
        worse_ci=held.ci if held else None,
    )
