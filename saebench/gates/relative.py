"""Rules whose limit is a control's own value, on the same sequences."""

import math
from dataclasses import dataclass

from saebench.gates.rules import Rule
from saebench.gates.verdicts import further_sequences
from saebench.results import GateResult, Interval, Metric, Verdict


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
        return _result(rule, None, Verdict.ERROR, f"{rule.metric} was not reported by this run.")
    if isinstance(found, str):
        return _result(rule, metric, Verdict.ERROR, f"{rule.metric}: {found}.")
    ci = found.ci
    if ci is None or not all(map(math.isfinite, (ci.low, ci.high, found.beyond_by))):
        text = f"{_told(rule, found)}: no interval. Measure on more sequences."
        return _result(rule, metric, Verdict.INCONCLUSIVE, text)
    apart = f"{_told(rule, found)}: {found.beyond_by:.3g} [{ci.low:.3g}, {ci.high:.3g}] apart"
    if ci.high <= 0:
        return _result(rule, metric, Verdict.PASS, f"{apart}, which is within the limit.")
    if ci.low > 0:
        return _result(rule, metric, Verdict.FAIL, f"{apart}, which is beyond the limit.")
    more = further_sequences(found.beyond_by, ci, 0.0, found.sequences)
    needed = (
        "The two are equal: no number of sequences would settle it."
        if math.isinf(more)
        else f"About {more:.0f} more sequences beside controls would settle it."
    )
    return _result(rule, metric, Verdict.INCONCLUSIVE, f"{apart} straddles the limit. {needed}")


def _told(rule: Rule, found: Beside) -> str:
    assert rule.relative is not None
    return (
        f"{rule.metric} = {found.own:.4g} where {rule.relative.shown} is {found.limit:.4g}, on "
        f"{found.sequences} sequences"
    )


def _result(rule: Rule, metric: Metric | None, verdict: Verdict, text: str) -> GateResult:
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
