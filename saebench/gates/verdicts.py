"""One rule, one metric, one verdict: the interval decides, not the value."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from saebench.gates.rules import Rule
from saebench.records.run import GateResult, Interval, Metric, Verdict


def decide(rule: Rule, metrics: Mapping[str, Metric]) -> GateResult:
    """Return the verdict of a rule.

    PASS where the whole interval lies inside the limits, FAIL where it lies outside,
    INCONCLUSIVE where it straddles one. A missing metric or one without a number is an ERROR;
    an undefined one is decided by the metric that stands in for it.

    Source:
        METRICS.md 4.
    """
    metric = metrics.get(rule.metric)
    if metric is None:
        sentence = f"{rule.metric} was not reported by this run, so the rule cannot be decided."
        return _result(rule, None, Verdict.ERROR, sentence)
    if metric.value is None:
        return _by_stand(rule, metric, metrics)
    return _decided(rule, metric, low=rule.low, high=rule.high)


def decide_all(rules: Iterable[Rule], metrics: Iterable[Metric]) -> tuple[GateResult, ...]:
    """Return the verdict of each rule."""
    by_name = {metric.name: metric for metric in metrics}
    return tuple(decide(rule, by_name) for rule in rules)


def _by_stand(rule: Rule, metric: Metric, metrics: Mapping[str, Metric]) -> GateResult:
    """Decide an undefined ratio by the difference: what the limit allows at the floor."""
    other = metrics.get(metric.stand.metric) if metric.stand else None
    if metric.stand is None or other is None or other.value is None:
        reason = metric.note or "it has no value"
        return _result(rule, metric, Verdict.ERROR, f"{metric.name}: {reason}.")
    low, high = ((limit - 1) * metric.stand.scale for limit in (rule.low, rule.high))
    found = _decided(replace(rule, low=low, high=high), other, low=low, high=high)
    return replace(found, sentence=f"{metric.name} is {metric.note}; decided by {found.sentence}")


def _decided(rule: Rule, metric: Metric, *, low: float, high: float) -> GateResult:
    assert metric.value is not None
    numbers = (metric.value, *((metric.ci.low, metric.ci.high) if metric.ci else ()))
    if not all(math.isfinite(number) for number in numbers):
        return _result(rule, metric, Verdict.ERROR, f"{_shown(metric)} is not a number.")
    if metric.ci is None:
        if metric.n.sequences < 2:
            text = f"{_shown(metric)} rests on one sequence: no interval. Measure on more."
            return _result(rule, metric, Verdict.INCONCLUSIVE, text)
        inside = low <= metric.value <= high
        return _result(
            rule,
            metric,
            Verdict.PASS if inside else Verdict.FAIL,
            _said(metric, low, high, "is within" if inside else "is outside"),
        )
    if low <= metric.ci.low and metric.ci.high <= high:
        return _result(rule, metric, Verdict.PASS, _said(metric, low, high, "is within"))
    if metric.ci.high < low or metric.ci.low > high:
        return _result(rule, metric, Verdict.FAIL, _said(metric, low, high, "is outside"))
    sentence = _said(metric, low, high, "straddles") + " " + _needed(metric, low, high)
    return _result(rule, metric, Verdict.INCONCLUSIVE, sentence)


def _needed(metric: Metric, low: float, high: float) -> str:
    """Say how many more sequences would settle it: half-widths shrink with the square root."""
    assert metric.value is not None
    assert metric.ci is not None
    more = max(
        further_sequences(metric.value, metric.ci, limit, metric.n.sequences)
        for limit in (low, high)
        if metric.ci.low <= limit <= metric.ci.high
    )
    if math.isinf(more):
        return "The value is at the limit: no number of sequences would settle it."
    return f"About {more:.0f} more sequences would settle it."


def further_sequences(value: float, ci: Interval, limit: float, n: int) -> float:
    """Return about how many more sequences an interval needs to leave its limit aside.

    Args:
        value: the estimate.
        ci: its interval, whose half-width shrinks with the square root of n.
        limit: what it straddles.
        n: sequences so far.
    """
    distance = abs(value - limit)
    half = ci.high - value if limit > value else value - ci.low
    if distance <= 1e-9 * max(abs(limit), 1e-9):
        return math.inf
    return max(1, math.ceil(n * (half / distance) ** 2) - n)


def _said(metric: Metric, low: float, high: float, relation: str) -> str:
    if math.isinf(low):
        limits = f"the limit of at most {high:.4g}"
    elif math.isinf(high):
        limits = f"the limit of at least {low:.4g}"
    else:
        limits = f"the limits {low:.4g} to {high:.4g}"
    return f"{_shown(metric)} {relation} {limits}."


def _shown(metric: Metric) -> str:
    if metric.ci is None:
        return f"{metric.name} = {metric.value:.4g}"
    return f"{metric.name} = {metric.value:.4g} [{metric.ci.low:.4g}, {metric.ci.high:.4g}]"


def _result(rule: Rule, metric: Metric | None, verdict: Verdict, sentence: str) -> GateResult:
    return GateResult(
        rule=rule.text,
        metric=metric.name if metric else rule.metric,
        observed=metric.value if metric else None,
        ci=metric.ci if metric else None,
        limit=rule.limit,
        baseline=None,
        verdict=verdict,
        sentence=sentence,
    )


@dataclass(frozen=True)
class Beside:
    """How a metric stands beside a control's, on the sequences that both were measured on.

    Attributes:
        own: the SAE's value there.
        limit: the control's, times the rule's factor.
        beyond_by: how far the SAE's lies beyond the limit; negative where it is within.
        ci: interval of that, paired over sequences.
        sequences: how many.
    """

    own: float
    limit: float
    beyond_by: float
    ci: Interval | None
    sequences: int


def decide_relative(rule: Rule, metric: Metric | None, found: Beside | str) -> GateResult:
    """Return the verdict of a rule such as ``fidelity.kl<control.random_init*0.5``.

    PASS where the whole interval of how far the SAE's value lies beyond the limit is at most 0,
    FAIL where it is above, INCONCLUSIVE where it straddles 0. What cannot be compared is an ERROR.

    Args:
        rule: with a control.
        metric: of this run.
        found: how the two stand, or why there is no comparing them.

    Source:
        METRICS.md 3 (controls), 4.
    """
    assert rule.relative is not None
    if metric is None:
        return _relative_result(
            rule, None, Verdict.ERROR, f"{rule.metric} was not reported by this run."
        )
    if isinstance(found, str):
        return _relative_result(rule, metric, Verdict.ERROR, f"{rule.metric}: {found}.")
    ci = found.ci
    if ci is None or not all(map(math.isfinite, (ci.low, ci.high, found.beyond_by))):
        text = f"{_told(rule, found)}: no interval. Measure on more sequences."
        return _relative_result(rule, metric, Verdict.INCONCLUSIVE, text)
    apart = f"{_told(rule, found)}: {found.beyond_by:.3g} [{ci.low:.3g}, {ci.high:.3g}] apart"
    if ci.high <= 0:
        return _relative_result(rule, metric, Verdict.PASS, f"{apart}, which is within the limit.")
    if ci.low > 0:
        return _relative_result(rule, metric, Verdict.FAIL, f"{apart}, which is beyond the limit.")
    more = further_sequences(found.beyond_by, ci, 0.0, found.sequences)
    needed = (
        "The two are equal: no number of sequences would settle it."
        if math.isinf(more)
        else f"About {more:.0f} more sequences beside controls would settle it."
    )
    return _relative_result(
        rule, metric, Verdict.INCONCLUSIVE, f"{apart} straddles the limit. {needed}"
    )


def _told(rule: Rule, found: Beside) -> str:
    assert rule.relative is not None
    return (
        f"{rule.metric} = {found.own:.4g} where {rule.relative.shown} is {found.limit:.4g}, on "
        f"{found.sequences} sequences"
    )


def _relative_result(rule: Rule, metric: Metric | None, verdict: Verdict, text: str) -> GateResult:
    return GateResult(
        rule=rule.text,
        metric=rule.metric,
        observed=metric.value if metric else None,
        ci=metric.ci if metric else None,
        limit=rule.limit,
        baseline=None,
        verdict=verdict,
        sentence=text,
    )
