"""Decides the rules of a case: limits, limits set by controls, margins to a baseline."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from saebench.compare.comparison import Side, why_incomparable
from saebench.compare.differences import SideCase, how_much_worse
from saebench.compare.sides import side_of_baseline
from saebench.errors import MeasurementError, NotApplicable, OptionError, StoreError
from saebench.gates.evidence import as_secondary, evidence
from saebench.gates.rules import Role, Rule
from saebench.gates.verdicts import (
    BaselineGap,
    ControlGap,
    NoComparison,
    by_enough,
    decide,
    decide_margin,
    decide_relative,
)
from saebench.judging.rules_of_run import spec_of
from saebench.measures.state import WithPeers
from saebench.properties.base import MetricSpec
from saebench.records.case_result import Evidence, GateResult
from saebench.records.inputs import ModelRecord, SubjectRecord
from saebench.records.metric import Metric
from saebench.records.verdict import Verdict, overall
from saebench.statistics.bootstrap import Sampled, Table, sample
from saebench.statistics.clusters import chosen
from saebench.statistics.levels import current_level
from saebench.statistics.paired import sample_pair
from saebench.store.baseline_source import BaselineSource
from saebench.store.baselines import load_baseline


@dataclass(frozen=True)
class MeasuredCase:
    """A measured case, for its rules to decide.

    Attributes:
        sae: the id of the SAE that a baseline is of; of a pair, the second.
        kind: the case's name without its SAE.
        now: its metrics and sums, as a side of a comparison.
        metrics: its metrics by name.
        controls: measures the SAE among its controls, or returns the error that this gives.
    """

    sae: str
    kind: str
    now: SideCase
    metrics: Mapping[str, Metric]
    controls: Callable[[], Any]


def gates_of(
    rules: Sequence[Rule], case: MeasuredCase, baselines: "Baselines | None", *, least: int
) -> tuple[GateResult, ...]:
    """Return the result of each rule: limits first, then those set by controls, then margins.

    Args:
        rules: those in force for the case.
        case: its measurement.
        baselines: what margins are to; without any, margins are left out.
        least: independent documents that decide a gate.
    """
    limits = [r for r in rules if r.margin is None and r.relative is None]
    gates = [_limit(rule, case) for rule in limits]
    gates += [_relative(rule, case) for rule in rules if rule.relative is not None]
    if baselines is not None:
        gates += [_margin(rule, case, baselines) for rule in rules if rule.margin is not None]
    return tuple(_by_enough(gate, case, least) for gate in gates)


def _by_enough(gate: GateResult, case: MeasuredCase, least: int) -> GateResult:
    """Return a gate undecided where a metric estimated from documents has too few of them."""
    metric = case.metrics.get(gate.metric)
    if metric is None or not spec_of(gate.metric).sampled:
        return gate
    undecided = by_enough(gate, documents=metric.n.sequences, least=least)
    # Without p-values, the correction for multiplicity leaves a secondary gate as it is.
    return gate if undecided is gate else replace(undecided, evidence=None)


def verdict_of(gates: Sequence[GateResult]) -> tuple[Verdict, str]:
    """Return the verdict of the gates that decide, and its reason."""
    deciding = [gate for gate in gates if not gate.secondary]
    if not deciding:
        return Verdict.NEW, "measured; no gate and no baseline to compare with"
    verdict = overall(gate.verdict for gate in deciding)
    return verdict, " ".join(gate.sentence for gate in deciding if gate.verdict is verdict)


def _limit(rule: Rule, case: MeasuredCase) -> GateResult:
    gate = decide(rule, case.metrics)
    metric = case.metrics.get(rule.metric)
    if rule.role is Role.PRIMARY and (metric is None or metric.decides):
        return gate
    if gate.verdict is Verdict.ERROR:
        return as_secondary(gate, None)
    gated, sampled, low, high = case.metrics[rule.metric], None, rule.low, rule.high
    if gate.metric == rule.metric:
        sampled = _distribution(gate.metric, case.now.table)
    elif gated.fallback is not None:
        low, high = gated.fallback.limits(low, high)
    p_values = evidence(gate.observed, gate.ci, (low, high), sampled=sampled, strict=rule.strict)
    return as_secondary(gate, p_values)


def _relative(rule: Rule, case: MeasuredCase) -> GateResult:
    gap, sampled = control_gap(rule, spec_of(rule.metric), case.controls())
    gate = decide_relative(rule, case.metrics.get(rule.metric), gap)
    if rule.role is Role.PRIMARY:
        return gate
    return as_secondary(gate, _evidence_of_gap(gap, sampled, 0.0, strict=rule.strict))


def _margin(rule: Rule, case: MeasuredCase, baselines: "Baselines") -> GateResult:
    assert rule.margin is not None
    gap, sampled = baseline_gap(rule, case.kind, case.now, baselines.sides[case.sae])
    gate = decide_margin(rule, case.metrics.get(rule.metric), gap)
    if rule.role is Role.PRIMARY:
        return gate
    if gate.verdict is Verdict.ERROR:
        return as_secondary(gate, None)
    return as_secondary(gate, _evidence_of_gap(gap, sampled, rule.margin.by))


def _evidence_of_gap(
    gap: BaselineGap | ControlGap | NoComparison | str,
    sampled: Sampled | None,
    limit: float,
    *,
    strict: bool = False,
) -> Evidence | None:
    """Return the p-values that a gap is at most a limit, and that it is more."""
    if isinstance(gap, BaselineGap):
        return evidence(gap.worse_by, gap.ci, (-np.inf, limit), sampled=sampled)
    if isinstance(gap, ControlGap):
        limits = (-np.inf, limit)
        return evidence(gap.beyond_by, gap.ci, limits, sampled=sampled, strict=strict)
    return None


def _distribution(metric: str, table: Table | None) -> Sampled | None:
    """Return a metric's sampling distribution; None where it is no formula of the sums."""
    spec = spec_of(metric)
    wanted = (*spec.channels, spec.counts)
    if spec.formula is None or table is None or not set(wanted) <= set(table):
        return None
    return sample(spec.formula, chosen(table, wanted))


def control_gap(
    rule: Rule, spec: MetricSpec, among: WithPeers | Exception
) -> tuple[ControlGap | str, Sampled | None]:
    """Return how far a metric is beyond a control's, with the sampling distribution.

    Args:
        rule: with a control.
        spec: the metric's definition.
        among: the SAE measured among its controls, or the error that this gave.

    Returns:
        The reason in place of the gap, where there is none.
    """
    assert rule.relative is not None
    if isinstance(among, MeasurementError | NotApplicable):
        return f"its controls could not be measured: {among}", None
    assert isinstance(among, WithPeers)
    name = rule.relative.control
    if name not in among.others:
        return f"{name}: {among.left_out.get(name, 'was not built')}", None
    tables = [_channels(spec, each) for each in (among.own, among.others[name])]
    if isinstance(tables[0], str) or isinstance(tables[1], str):
        return next(each for each in tables if isinstance(each, str)), None
    return _gap_of_tables(rule, spec, tables[0], tables[1])


def _gap_of_tables(
    rule: Rule, spec: MetricSpec, own: Table, other: Table
) -> tuple[ControlGap | str, Sampled | None]:
    assert rule.relative is not None
    assert spec.formula is not None
    formula, factor = spec.formula, rule.relative.factor
    turn = 1.0 if rule.relative.sign[0] == "<" else -1.0
    with np.errstate(all="ignore"):
        values = [float(formula({c: v.sum() for c, v in t.items()})) for t in (own, other)]
    if not np.isfinite(values).all():
        return f"it is not finite for the SAE or for {rule.relative.control}", None
    sampled = sample_pair(
        formula, own, other, combine=lambda mine, theirs: turn * (mine - factor * theirs)
    )
    interval = sampled.interval(current_level())
    limit = factor * values[1]
    return ControlGap(values[0], limit, sampled.value, interval, sampled.sequences), sampled


def _channels(spec: MetricSpec, measurement: Any) -> Table | str:
    table = measurement.table()
    wanted = (*spec.channels, spec.counts)
    missing = [channel for channel in wanted if channel not in table]
    if missing:
        return f"it was not measured with controls: {missing[0]} is missing"
    bad = [channel for channel in wanted if not np.isfinite(table[channel]).all()]
    if bad:
        return f"{bad[0]} is not finite for the SAE or its control"
    return chosen(table, wanted)


@dataclass
class Baselines:
    """The baselines of a run's SAEs, by SAE id."""

    sides: dict[str, Side] = field(default_factory=dict)

    def read(self, source: BaselineSource, sae: SubjectRecord, model: ModelRecord) -> None:
        """Read an SAE's baseline.

        Raises:
            OptionError: where there is none, or it is damaged.
        """
        path = source.of(sae, model)
        try:
            self.sides[sae.id] = side_of_baseline(load_baseline(path), path)
        except StoreError as error:
            raise OptionError(f"--sae-baseline {source.name}: {error}") from error


def baseline_gap(
    rule: Rule, kind: str, now: SideCase, side: Side
) -> tuple[BaselineGap | NoComparison, Sampled | None]:
    """Return how much worse a case's metric is than a baseline's, with its distribution.

    Args:
        rule: a margin.
        kind: the case's name without its SAE.
        now: the case, of this run.
        side: the baseline.

    Returns:
        The reason in place of the gap, where the two do not compare; the sampling distribution
        where the comparison is paired.
    """
    assert rule.margin is not None
    before = side.cases.get(kind)
    if before is None or rule.metric not in before.metrics:
        why = f"the baseline {side.label} has none of {kind} to compare with"
        return NoComparison(Verdict.NEW, why), None
    reason = why_incomparable(before, now)
    if reason is None and rule.metric in now.metrics:
        worse = how_much_worse(spec_of(rule.metric), (before, now), relative=rule.margin.relative)
        if not isinstance(worse, str):
            stored = before.metrics[rule.metric].value
            assert stored is not None
            noise = before.noise.get(rule.metric)
            if noise is not None and rule.margin.relative:
                noise /= abs(stored)
            gap = BaselineGap(side.label, stored, worse.value, worse.ci, worse.paired, noise)
            return gap, worse.sampled
        reason = worse
    why = (
        f"the baseline {side.label} does not compare with this run: {reason}; measure as the "
        "baseline was, or store it anew with --sae-update-baselines"
    )
    return NoComparison(Verdict.INCOMPARABLE, why), None
