"""What a case comes to: its rules decided, those that decide and those that are reported."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from saebench.compare.comparison import Side, why_incomparable
from saebench.compare.differences import SideCase, how_much_worse
from saebench.compare.sides import side_of_baseline
from saebench.errors import MeasurementError, NotApplicable, OptionError, StoreError
from saebench.gates.evidence import as_secondary, evidence
from saebench.gates.margins import Against, NotHeld, decide_margin
from saebench.gates.rules import Role, Rule
from saebench.gates.verdicts import Beside, decide, decide_relative
from saebench.judging.rules_of_run import spec_of
from saebench.properties.base import MetricSpec
from saebench.records.boards import Score
from saebench.records.run import (
    Evidence,
    GateResult,
    Interval,
    Metric,
    ModelRecord,
    SubjectRecord,
    Verdict,
    overall,
)
from saebench.statistics.bootstrap import Sampled, Table, sample
from saebench.statistics.clusters import chosen, side_by_side
from saebench.statistics.levels import current_level
from saebench.store.baseline_checks import read_checked_baseline
from saebench.store.baseline_source import BaselineSource
from saebench.substitution.measurement import WithPeers


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
    rules: Sequence[Rule], found: Found, baselines: "Baselines | None"
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


def _margin(rule: Rule, found: Found, baselines: "Baselines") -> GateResult:
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


def beside(rule: Rule, spec: MetricSpec, found: Any) -> tuple[Beside | str, Sampled | None]:
    """Return how a metric stands beside a control's, and its distribution; or why it does not.

    Args:
        rule: with a control.
        spec: the metric's definition.
        found: the SAE among its controls, or the error that there is instead.
    """
    assert rule.relative is not None
    if isinstance(found, MeasurementError | NotApplicable):
        return f"its controls could not be measured: {found}", None
    assert isinstance(found, WithPeers)
    name = rule.relative.control
    if name not in found.others:
        return f"{name}: {found.left_out.get(name, 'was not made')}", None
    tables = [_channels(spec, each) for each in (found.own, found.others[name])]
    if isinstance(tables[0], str) or isinstance(tables[1], str):
        return next(each for each in tables if isinstance(each, str)), None
    return _held(rule, spec, tables[0], tables[1])


def _held(
    rule: Rule, spec: MetricSpec, own: Table, other: Table
) -> tuple[Beside | str, Sampled | None]:
    assert rule.relative is not None
    assert spec.formula is not None
    formula, factor = spec.formula, rule.relative.factor
    turn = 1.0 if rule.relative.sign == "<=" else -1.0

    def beyond(sums: Table) -> np.ndarray:
        mine, theirs = (
            formula({c[2:]: v for c, v in sums.items() if c.startswith(side)})
            for side in ("a/", "b/")
        )
        return turn * (mine - factor * theirs)

    both = side_by_side({"a": own, "b": other})
    with np.errstate(all="ignore"):
        values = [float(formula({c: v.sum() for c, v in t.items()})) for t in (own, other)]
    if not np.isfinite(values).all():
        return f"it is not finite for the SAE or for {rule.relative.control}", None
    found = sample(beyond, both)
    ci: Interval | None = found.interval(current_level())
    return Beside(values[0], factor * values[1], found.value, ci, found.sequences), found


def _channels(spec: MetricSpec, measurement: Any) -> Table | str:
    table = measurement.table()
    wanted = (*spec.channels, spec.counts)
    missing = [channel for channel in wanted if channel not in table]
    if missing:
        return f"it was not measured beside controls: {missing[0]} is missing"
    bad = [channel for channel in wanted if not np.isfinite(table[channel]).all()]
    if bad:
        return f"{bad[0]} is not finite for the SAE or its control"
    return chosen(table, wanted)


@dataclass
class Baselines:
    """The baselines that a run's SAEs are held against, by SAE."""

    sides: dict[str, Side] = field(default_factory=dict)

    def read(self, source: BaselineSource, sae: SubjectRecord, model: ModelRecord) -> None:
        """Read an SAE's baseline.

        Raises:
            OptionError: where there is none, or it is damaged.
        """
        path = source.of(sae, model)
        try:
            self.sides[sae.id] = side_of_baseline(read_checked_baseline(path), path)
        except StoreError as error:
            raise OptionError(f"--sae-baseline {source.shown}: {error}") from error

    def held(
        self, rule: Rule, sae: str, kind: str, now: SideCase
    ) -> tuple[Against | NotHeld, Sampled | None]:
        """Return how a case stands against its baseline in a margin's metric.

        Args:
            rule: a margin.
            sae: the SAE's id.
            kind: the case's name without it.
            now: what this run found.

        Returns:
            that, and the difference's distribution where it is paired.
        """
        return against(rule, kind, now, self.sides[sae])


def against(
    rule: Rule, kind: str, now: SideCase, side: Side
) -> tuple[Against | NotHeld, Sampled | None]:
    """Return how a case's metric stands against a stored one, and the difference's distribution.

    Args:
        rule: a margin.
        kind: the case's name without its SAE.
        now: what this run found.
        side: the baseline.
    """
    assert rule.margin is not None
    before = side.cases.get(kind)
    if before is None or rule.metric not in before.metrics:
        why = f"the baseline {side.label} has none of {kind} to compare with"
        return NotHeld(Verdict.NEW, why), None
    reason = why_incomparable(before.basis, now.basis)
    if reason is None and rule.metric in now.metrics:
        found = how_much_worse(spec_of(rule.metric), (before, now), relative=rule.margin.relative)
        if not isinstance(found, str):
            stored = before.metrics[rule.metric].value
            assert stored is not None
            noise = before.noise.get(rule.metric)
            if noise is not None and rule.margin.relative:
                noise /= abs(stored)
            told = Against(side.label, stored, found.value, found.ci, found.paired, noise)
            return told, found.sampled
        reason = found
    why = (
        f"the baseline {side.label} does not compare with this run: {reason}; measure as the "
        "baseline was, or store it anew with --sae-update-baselines"
    )
    return NotHeld(Verdict.INCOMPARABLE, why), None


def scores(metrics: Sequence[Metric]) -> Mapping[str, Score]:
    """Return a run's metrics as a stored side has them."""
    return {
        m.name: Score(m.version, m.value, (m.ci.low, m.ci.high) if m.ci else None) for m in metrics
    }
