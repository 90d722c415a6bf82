"""One rule, one metric, one verdict: the interval decides, not the value."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from saebench.gates.rules import RERUN_NOISE, TIMES, Margin, Rule
from saebench.records.case_result import GateResult
from saebench.records.metric import Interval, Metric, Negligible
from saebench.records.verdict import Verdict

MOST_MORE, MOST_TIMES = 100_000, 100
"""Further sequences, and times those that there are, beyond which more data is no advice."""


@dataclass(frozen=True)
class BaselineGap:
    """How much worse a metric is than its baseline.

    Attributes:
        label: the baseline's SAE.
        baseline: the metric's value there.
        worse_by: how much worse it is now; a share of the baseline where the margin is one.
        ci: interval of ``worse_by``.
        paired: the interval is paired over sequences.
        noise: the metric's re-measurement noise in the same terms; None where it is not known.
    """

    label: str
    baseline: float
    worse_by: float
    ci: Interval | None
    paired: bool
    noise: float | None = None


@dataclass(frozen=True)
class ControlGap:
    """How far a metric is beyond a limit set by a control, on the sequences of both.

    Attributes:
        own: the SAE's value.
        limit: the control's value, times the rule's factor.
        beyond_by: how far the SAE's value is beyond the limit; negative where it is within.
        ci: interval of ``beyond_by``, paired over sequences.
        sequences: their number.
    """

    own: float
    limit: float
    beyond_by: float
    ci: Interval | None
    sequences: int


@dataclass(frozen=True)
class NoComparison:
    """Why a metric cannot be compared with a baseline: NEW, or INCOMPARABLE."""

    verdict: Verdict
    reason: str


def settled(interval: Interval, low: float, high: float, *, strict: bool = False) -> Verdict:
    """Return the verdict that an interval gives on limits.

    PASS where it is inside, FAIL where it is outside, INCONCLUSIVE where it straddles one.

    Args:
        interval: of the value.
        low: the lower limit, -inf for none.
        high: the upper limit, inf for none.
        strict: a value at a limit is outside; otherwise it is inside.

    Example:
        >>> settled(Interval(0.1, 0.3, 0.95, ""), 0.0, 0.2).value
        'INCONCLUSIVE'
        >>> exact = Interval(0.2, 0.2, 0.95, "")
        >>> settled(exact, 0.0, 0.2).value, settled(exact, 0.0, 0.2, strict=True).value
        ('PASS', 'FAIL')
    """
    ends = (interval.low, interval.high)
    if all(_inside(end, low, high, strict=strict) for end in ends):
        return Verdict.PASS
    below = interval.high <= low if strict else interval.high < low
    above = interval.low >= high if strict else interval.low > high
    return Verdict.FAIL if below or above else Verdict.INCONCLUSIVE


def _inside(value: float, low: float, high: float, *, strict: bool) -> bool:
    return low < value < high if strict else low <= value <= high


def decide(rule: Rule, metrics: Mapping[str, Metric]) -> GateResult:
    """Return the verdict on a limit.

    A metric that is missing or not a number is an ERROR; an undefined one is decided by its
    fallback, or as it declares. A metric that has no interval by its nature is decided by its
    value. Where a metric declares what is negligible, it fails only beyond that.

    Source:
        docs/metrics.md, "Verdicts".
    """
    metric = metrics.get(rule.metric)
    if metric is None:
        text = f"{rule.metric} was not reported by this run, so the rule cannot be decided."
        return _gate(rule, None, Verdict.ERROR, text)
    if metric.value is None:
        return _by_fallback(rule, metric, metrics)
    verdict, text = _limited(metric, metric.value, rule.low, rule.high, strict=rule.strict)
    if verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE) and metric.negligible is not None:
        verdict, text = _unless_negligible(verdict, text, metric.negligible, metrics)
    return _gate(rule, metric, verdict, text)


def _unless_negligible(
    verdict: Verdict, text: str, negligible: Negligible, metrics: Mapping[str, Metric]
) -> tuple[Verdict, str]:
    """Pass a metric that is outside its limits where the whole effect is negligible."""
    other = metrics.get(negligible.metric)
    if other is None or other.value is None:
        return verdict, text
    small, why = _limited(other, other.value, -math.inf, negligible.limit)
    if small is Verdict.PASS:
        return Verdict.PASS, f"{text} Not failed: the effect is negligible, as {why}"
    return (small, f"{text} {why}") if small is Verdict.INCONCLUSIVE else (verdict, text)


def _by_fallback(rule: Rule, metric: Metric, metrics: Mapping[str, Metric]) -> GateResult:
    """Decide an undefined ratio by the difference: what the limit allows at the floor."""
    other = metrics.get(metric.fallback.metric) if metric.fallback else None
    if metric.fallback is None or other is None or other.value is None:
        reason = metric.note or "it has no value"
        return _gate(rule, metric, metric.if_undefined, f"{metric.name}: {reason}.")
    low, high = metric.fallback.limits(rule.low, rule.high)
    verdict, text = _limited(other, other.value, low, high, strict=rule.strict)
    text = f"{metric.name} is {metric.note}; decided by {text}"
    return _gate(replace(rule, low=low, high=high), other, verdict, text)


def _limited(
    metric: Metric, value: float, low: float, high: float, *, strict: bool = False
) -> tuple[Verdict, str]:
    """Return the verdict on a metric's limits, and its sentence."""
    ci, prefix = metric.ci, _value_text(metric)
    if not (math.isfinite(value) and (ci is None or ci.is_finite)):
        return Verdict.ERROR, f"{prefix} is not a number."
    if ci is None and metric.n.sequences < 2:
        text = f"{prefix} rests on one sequence: no interval. Measure on more."
        return Verdict.INCONCLUSIVE, text
    verdict = settled(ci or Interval(value, value, 1.0, ""), low, high, strict=strict)
    limits = _limits_text(low, high, strict=strict)
    if verdict is not Verdict.INCONCLUSIVE or ci is None:
        relation = "is within" if verdict is Verdict.PASS else "is outside"
        return verdict, f"{prefix} {relation} {limits}."
    n = metric.n.sequences
    more = max(further_sequences(value, ci, limit, n) for limit in (low, high) if limit in ci)
    needed = _needed(more, n, near="The value is too near the limit")
    return verdict, f"{prefix} straddles {limits}. {needed}"


def decide_margin(rule: Rule, metric: Metric | None, gap: BaselineGap | NoComparison) -> GateResult:
    """Return the verdict on a margin: non-inferiority to a baseline.

    Args:
        rule: with a margin.
        metric: of this run.
        gap: how much worse the metric is, or why that is not known.

    Source:
        docs/metrics.md, "Verdicts".
    """
    assert rule.margin is not None
    if metric is None or metric.value is None:
        return _without_value(rule, metric)
    if isinstance(gap, NoComparison):
        return _gate(rule, metric, gap.verdict, f"{rule.metric}: {gap.reason}.")
    verdict, text = _within_margin(rule.margin, metric, gap)
    return _gate(rule, metric, verdict, text, gap=gap)


def _without_value(rule: Rule, metric: Metric | None) -> GateResult:
    if metric is not None and metric.fallback is not None:
        # The fallback decides the rule's limit; an undefined value has no margin.
        text = f"{rule.metric} is {metric.note}: there is nothing to compare with the baseline."
        return _gate(rule, metric, Verdict.NEW, text)
    why = metric.note if metric and metric.note else "it was not reported by this run"
    return _gate(rule, metric, Verdict.ERROR, f"{rule.metric}: {why}.")


def _within_margin(margin: Margin, metric: Metric, gap: BaselineGap) -> tuple[Verdict, str]:
    least = RERUN_NOISE if margin.relative else RERUN_NOISE * abs(gap.baseline)
    noise = max(least, gap.noise or 0.0)
    if margin.by < TIMES * noise:
        amount = f"{100 * noise:.2g}%" if margin.relative else f"{noise:.2g}"
        return Verdict.ERROR, (
            f"{metric.name}: the margin of {margin.amount} is less than {TIMES} times what "
            f"running again changes, which is {amount}: it would be decided by chance; allow more."
        )
    ci, prefix = gap.ci, _gap_text(margin, metric, gap)
    if ci is None or not ci.is_finite:
        return Verdict.INCONCLUSIVE, f"{prefix} has no interval. Measure on more sequences."
    verdict = settled(ci, -math.inf, margin.by)
    if verdict is not Verdict.INCONCLUSIVE:
        relation = "within" if verdict is Verdict.PASS else "beyond"
        return verdict, f"{prefix} is {relation} the margin of {margin.amount}."
    more = further_sequences(gap.worse_by, ci, margin.by, metric.n.sequences)
    needed = _needed(more, metric.n.sequences, near="The difference is too near the margin")
    return verdict, f"{prefix} straddles the margin of {margin.amount}. {needed}"


def decide_relative(rule: Rule, metric: Metric | None, gap: ControlGap | str) -> GateResult:
    """Return the verdict on a rule such as ``fidelity.kl<control.random_init*0.5``.

    Args:
        rule: with a control.
        metric: of this run.
        gap: how far the metric is beyond the limit, or why that is not known: an ERROR.

    Source:
        docs/metrics.md, "Controls" and "Verdicts".
    """
    assert rule.relative is not None
    if metric is None:
        return _gate(rule, None, Verdict.ERROR, f"{rule.metric} was not reported by this run.")
    if isinstance(gap, str):
        return _gate(rule, metric, Verdict.ERROR, f"{rule.metric}: {gap}.")
    prefix = (
        f"{rule.metric} = {gap.own:.4g} where {rule.relative.limit} is {gap.limit:.4g}, on "
        f"{gap.sequences} sequences"
    )
    verdict, text = _within_limit(gap, strict=rule.strict)
    return _gate(rule, metric, verdict, f"{prefix}: {text}")


def _within_limit(gap: ControlGap, *, strict: bool) -> tuple[Verdict, str]:
    ci = gap.ci
    if ci is None or not (ci.is_finite and math.isfinite(gap.beyond_by)):
        return Verdict.INCONCLUSIVE, "no interval. Measure on more sequences."
    verdict = settled(ci, -math.inf, 0.0, strict=strict)
    apart = f"{gap.beyond_by:.3g} {ci.text()} apart"
    if verdict is not Verdict.INCONCLUSIVE:
        relation = "within" if verdict is Verdict.PASS else "beyond"
        return verdict, f"{apart}, which is {relation} the limit."
    more = further_sequences(gap.beyond_by, ci, 0.0, gap.sequences)
    needed = _needed(
        more, gap.sequences, near="The two are too nearly equal", of="sequences with controls"
    )
    return verdict, f"{apart} straddles the limit. {needed}"


def further_sequences(value: float, ci: Interval, limit: float, n: int) -> float:
    """Return about how many more sequences an interval needs to exclude a limit.

    Args:
        value: the estimate.
        ci: its interval, whose half-width shrinks with the square root of n.
        limit: a limit inside the interval.
        n: sequences so far.
    """
    distance = abs(value - limit)
    half = ci.high - value if limit > value else value - ci.low
    if distance <= 1e-9 * max(abs(limit), 1e-9):
        return math.inf
    return max(1, math.ceil(n * (half / distance) ** 2) - n)


def _needed(more: float, n: int, *, near: str, of: str = "sequences") -> str:
    """Say how much more data would settle a gate, where such an amount can be had."""
    if more > MOST_MORE or more > MOST_TIMES * n:
        return f"Not by more data: {near[0].lower()}{near[1:]}."
    return f"About {more:,.0f} more {of} would settle it."


def by_enough(gate: GateResult, *, documents: int, least: int) -> GateResult:
    """Return a gate undecided where its metric rests on too few independent documents.

    What was not decided by a value stays as it is: ERROR, NEW, INCOMPARABLE, and a metric that is
    undefined by a fault of the SAE.

    Args:
        gate: a decided one.
        documents: independent documents that it rests on.
        least: how many are needed.

    Source:
        docs/statistics.md, "How many documents a verdict needs".
    """
    by_value = gate.verdict in (Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE)
    if documents >= least or gate.observed is None or not by_value:
        return gate
    some = "document" if documents == 1 else "documents"
    sentence = (
        f"{gate.metric} = {gate.observed:.4g} rests on {documents} independent {some}; {least} are "
        f"needed: {least - documents} more."
    )
    return replace(gate, verdict=Verdict.INCONCLUSIVE, sentence=sentence)


def _limits_text(low: float, high: float, *, strict: bool) -> str:
    if math.isinf(low):
        return f"the limit of {'less than' if strict else 'at most'} {high:.4g}"
    if math.isinf(high):
        return f"the limit of {'more than' if strict else 'at least'} {low:.4g}"
    return f"the limits {low:.4g} to {high:.4g}"


def _value_text(metric: Metric) -> str:
    interval = f" {metric.ci.text('.4g')}" if metric.ci else ""
    return f"{metric.name} = {metric.value:.4g}{interval}"


def _gap_text(margin: Margin, metric: Metric, gap: BaselineGap) -> str:
    """Say by how much the metric is worse or better than its baseline."""
    scale, unit = (100, "%") if margin.relative else (1, "")
    word, sign = ("worse", 1) if gap.worse_by >= 0 else ("better", -1)
    interval = ""
    if gap.ci is not None:
        low, high = sorted((sign * scale * gap.ci.low, sign * scale * gap.ci.high))
        interval = f" [{low:.3g}, {high:.3g}]"
    how = "" if gap.paired else ", unpaired,"
    return (
        f"{metric.name} = {metric.value:.4g} against {gap.baseline:.4g} of {gap.label}: "
        f"{sign * scale * gap.worse_by:.3g}{unit}{interval} {word}{how}"
    )


def _gate(
    rule: Rule,
    metric: Metric | None,
    verdict: Verdict,
    sentence: str,
    *,
    gap: BaselineGap | None = None,
) -> GateResult:
    return GateResult(
        rule=rule.text,
        metric=metric.name if metric else rule.metric,
        observed=metric.value if metric else None,
        ci=metric.ci if metric else None,
        limit=rule.limit,
        baseline=gap.baseline if gap else None,
        verdict=verdict,
        sentence=sentence,
        worse_by=gap.worse_by if gap else None,
        worse_ci=gap.ci if gap else None,
        why=rule.why or None,
    )
