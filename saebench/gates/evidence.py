"""Secondary gates: their p-values, corrected for the number of such gates in a run."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from scipy.special import ndtr, ndtri

from saebench.records.case_result import CaseResult, Evidence, GateResult
from saebench.records.metric import Interval
from saebench.records.verdict import Verdict
from saebench.statistics.bootstrap import Sampled
from saebench.statistics.levels import LEVEL, current_level, holm

ONE_SIDED = (1 - LEVEL) / 2


def evidence(
    value: float | None,
    ci: Interval | None,
    limits: tuple[float, float],
    *,
    sampled: Sampled | None,
    strict: bool = False,
) -> Evidence | None:
    """Return the one-sided p-values that a value is within its limits, and beyond them.

    For a range the larger p of both sides shows that it is within (two one-sided tests), and twice
    the smaller one that it is beyond. In a run that looks at the data several times, p-values are
    adjusted as intervals are.

    Args:
        value: the estimate.
        ci: its interval, which is used where the sampling distribution is not available.
        limits: the lower and the upper one, infinite where there is none.
        sampled: the sampling distribution.
        strict: a value at a limit is beyond it; that matters where nothing varies.

    Source:
        Schuirmann 1987, "A comparison of the two one-sided tests procedure".
    """
    if value is None or (sampled is None and ci is None):
        return None
    sides = [side for side in (0, 1) if np.isfinite(limits[side])]
    if _never_varies(value, ci, sampled):
        within, beyond = _certain(value, limits, sides, strict=strict)
    else:
        within = [_p(value, ci, limits[s], inside_below=s == 1, sampled=sampled) for s in sides]
        beyond = [_p(value, ci, limits[s], inside_below=s == 0, sampled=sampled) for s in sides]
    looks = (1 - LEVEL) / (1 - current_level())
    p_within, p_beyond = looks * max(within), looks * len(sides) * min(beyond)
    if not np.isfinite((p_within, p_beyond)).all():
        return None
    return Evidence(p_within=min(1.0, p_within), p_beyond=min(1.0, p_beyond))


def as_secondary(gate: GateResult, p_values: Evidence | None) -> GateResult:
    """Return a gate as a secondary one, with its p-values."""
    return replace(gate, secondary=True, evidence=p_values)


def corrected(cases: Iterable[CaseResult]) -> tuple[CaseResult, ...]:
    """Return a run's cases with the secondary gates' verdicts corrected for their number.

    PASS where the corrected p shows that the limit holds, FAIL where it shows that it does not,
    both at 2.5% as an interval of 95% has at each end; otherwise INCONCLUSIVE. The chance of any
    false claim among the secondary gates, in either direction, is at most that. ERROR, NEW and
    INCOMPARABLE do not change. Correcting a second time changes nothing.

    Source:
        Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    cases = tuple(cases)
    gates = [g for case in cases for g in case.gates if g.secondary and g.evidence is not None]
    p_values = [g.evidence for g in gates if g.evidence is not None]
    within, beyond = holm([e.p_within for e in p_values]), holm([e.p_beyond for e in p_values])
    new = {
        id(gate): _decided(gate, float(inside), float(outside), len(gates))
        for gate, inside, outside in zip(gates, within, beyond, strict=True)
    }
    return tuple(
        replace(case, gates=tuple(new.get(id(gate), gate) for gate in case.gates)) for case in cases
    )


def _decided(gate: GateResult, within: float, beyond: float, count: int) -> GateResult:
    assert gate.evidence is not None
    p_values = replace(
        gate.evidence, adjusted_within=within, adjusted_beyond=beyond, corrected_for=count
    )
    verdict = Verdict.INCONCLUSIVE
    if within <= ONE_SIDED:
        verdict = Verdict.PASS
    elif beyond <= ONE_SIDED:
        verdict = Verdict.FAIL
    smaller = min(within, beyond)
    p = "< 0.001" if smaller < 0.001 else f"= {smaller:.3f}"
    plain = gate.sentence.partition(" Secondary: ")[0]
    text = f"{plain} Secondary: p {p} after Holm's correction for {count} gates."
    return replace(gate, verdict=verdict, evidence=p_values, sentence=text)


def _never_varies(value: float, ci: Interval | None, sampled: Sampled | None) -> bool:
    """True where every sequence gives the same value, so that there is nothing to estimate."""
    if sampled is not None:
        return sampled.error == 0 and sampled.sequences > 1
    return ci is not None and ci.low == value == ci.high


def _certain(
    value: float, limits: tuple[float, float], sides: list[int], *, strict: bool
) -> tuple[list[float], list[float]]:
    """Return the p-values of a value without spread: 0 for what is so, 1 for what is not."""
    inside = []
    for side in sides:
        margin = limits[1] - value if side == 1 else value - limits[0]
        inside.append(margin > 0 or (margin == 0 and not strict))
    return [0.0 if i else 1.0 for i in inside], [1.0 if i else 0.0 for i in inside]


def _p(
    value: float,
    ci: Interval | None,
    limit: float,
    *,
    inside_below: bool,
    sampled: Sampled | None,
) -> float:
    """Return the p of the claim that the true value is on the given side of a limit."""
    if sampled is not None:
        return sampled.p_below(limit) if inside_below else sampled.p_above(limit)
    assert ci is not None
    # The interval's half on the side of the limit, as if of a normal distribution.
    half = ci.high - value if limit > value else value - ci.low
    distance = (limit - value) if inside_below else (value - limit)
    if half <= 0:
        return 0.0 if distance > 0 else 1.0
    return float(ndtr(-distance / half * ndtri(0.5 + ci.level / 2)))
