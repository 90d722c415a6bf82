"""What a case comes to: its rules decided, those that decide and those that are reported."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from saebench.gates.margins import Against, decide_margin
from saebench.gates.relative import Beside, decide_relative
from saebench.gates.rules import Role, Rule
from saebench.gates.verdicts import decide
from saebench.judging.beside_controls import beside
from saebench.judging.differences import SideCase
from saebench.judging.margins import Baselines
from saebench.judging.rules import spec_of
from saebench.judging.secondary import as_secondary, evidence
from saebench.results import Evidence, GateResult, Metric, Verdict, overall
from saebench.statistics.bootstrap import Sampled, Table, sample
from saebench.statistics.clusters import chosen


@dataclass(frozen=True)
class Found:
    """What was measured of a case, for its rules to decide.

    Attributes:
        sae: the SAE that a baseline is of; of a pair, the second.
        kind: the case's name without its SAE.
        now: its numbers and sums, as a baseline has them.
        metrics: the same numbers, as reported.
        controls: measures the SAE among its controls, where a rule needs that.
    """

    sae: str
    kind: str
    now: SideCase
    metrics: Sequence[Metric]
    controls: Callable[[], Any]

    @property
    def by_name(self) -> Mapping[str, Metric]:
        """The metrics by name."""
        return {metric.name: metric for metric in self.metrics}


def gates_of(
    rules: Sequence[Rule], found: Found, baselines: Baselines | None
) -> tuple[GateResult, ...]:
    """Return the verdict of each rule: limits, then controls, then margins.

    Args:
        rules: those that hold for the case.
        found: what was measured.
        baselines: what the run is held against; without any, margins say nothing.
    """
    limits = [r for r in rules if r.margin is None and r.relative is None]
    gates = [_limit(rule, found) for rule in limits]
    gates += [_relative(rule, found) for rule in rules if rule.relative is not None]
    if baselines is not None:
        gates += [_margin(rule, found, baselines) for rule in rules if rule.margin is not None]
    return tuple(gates)


def verdict_of(gates: Sequence[GateResult]) -> tuple[Verdict, str]:
    """Return what the gates that decide come to, and why."""
    deciding = [gate for gate in gates if not gate.secondary]
    if not deciding:
        return Verdict.NEW, "measured; no gate and no baseline to hold it against"
    verdict = overall(gate.verdict for gate in deciding)
    return verdict, " ".join(gate.sentence for gate in deciding if gate.verdict is verdict)


def _limit(rule: Rule, found: Found) -> GateResult:
    gate = decide(rule, found.by_name)
    if rule.role is Role.PRIMARY:
        return gate
    metric = found.by_name.get(gate.metric)
    sampled, limits = None, (rule.low, rule.high)
    if metric is not None and gate.metric == rule.metric:
        sampled = _distribution(gate.metric, found.now.table)
    elif (stand := _stand_of(rule, found)) is not None:
        limits = tuple((limit - 1) * stand for limit in limits)
    told = evidence(gate.observed, gate.ci, (limits[0], limits[1]), sampled=sampled)
    return as_secondary(gate, told if gate.verdict is not Verdict.ERROR else None)


def _relative(rule: Rule, found: Found) -> GateResult:
    held, sampled = beside(rule, spec_of(rule.metric), found.controls())
    gate = decide_relative(rule, found.by_name.get(rule.metric), held)
    return gate if rule.role is Role.PRIMARY else as_secondary(gate, _of_gap(held, sampled, 0.0))


def _margin(rule: Rule, found: Found, baselines: Baselines) -> GateResult:
    assert rule.margin is not None
    held, sampled = baselines.held(rule, found.sae, found.kind, found.now)
    gate = decide_margin(rule, found.by_name.get(rule.metric), held)
    if rule.role is Role.PRIMARY:
        return gate
    told = None if gate.verdict is Verdict.ERROR else _of_gap(held, sampled, rule.margin.by)
    return as_secondary(gate, told)


def _of_gap(held: Any, sampled: Sampled | None, limit: float) -> Evidence | None:
    """Return the evidence that a difference is at most a limit."""
    limits = (-np.inf, limit)
    if isinstance(held, Against):
        return evidence(held.worse_by, held.ci, limits, sampled=sampled)
    if isinstance(held, Beside):
        return evidence(held.beyond_by, held.ci, limits, sampled=sampled)
    return None


def _distribution(metric: str, table: Table | None) -> Sampled | None:
    """Return a metric's distribution; None for one that is no formula of the sums at hand."""
    spec = spec_of(metric)
    wanted = (*spec.channels, spec.counts)
    if spec.formula is None or table is None or not set(wanted) <= set(table):
        return None
    return sample(spec.formula, chosen(table, wanted))


def _stand_of(rule: Rule, found: Found) -> float | None:
    """Return what scales the limits where another metric stands in for an undefined one."""
    metric = found.by_name.get(rule.metric)
    return metric.stand.scale if metric is not None and metric.stand is not None else None
