"""Before and after, judged by the gate itself on the same tokens, and compared in pairs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from saebench.experiments.base import MetricSpec
from saebench.experiments.bench import Bench
from saebench.judging.cases import Given, Requests
from saebench.judging.judge import Judge
from saebench.options import Settings
from saebench.progress import ProgressBar
from saebench.properties import fidelity, kl_gap, shrinkage, sparsity
from saebench.records.repair import GateChange, Ranged, RepairRow
from saebench.records.run import CaseResult, Direction
from saebench.statistics.bootstrap import Formula, Table, estimate
from saebench.statistics.clusters import chosen
from saebench.statistics.paired import Combine, difference, of_pair, pair

BEFORE, AFTER = "before", "after"
CASES = (("fidelity", {}), ("shrinkage", {}), ("sparsity", {}), ("kl_gap", {"scope": "all"}))
INTERVENTIONS = ("eps_random",)


def _perplexity(sums: Table) -> np.ndarray:
    return np.exp(sums["sae.ce"] / sums["n.targets"])


def _perplexity_gap(sums: Table) -> np.ndarray:
    return _perplexity(sums) - np.exp(sums["clean.ce"] / sums["n.targets"])


PERPLEXITY = MetricSpec("perplexity", "", Direction.LOWER, _perplexity, ("sae.ce",), "n.targets")
GAP = MetricSpec(
    "perplexity_gap", "", Direction.LOWER, _perplexity_gap, ("sae.ce", "clean.ce"), "n.targets"
)


def _spec(specs: Sequence[MetricSpec], name: str) -> MetricSpec:
    return next(spec for spec in specs if spec.name == name)


ROWS = (
    _spec(fidelity.METRICS, "fidelity.mse"),
    _spec(fidelity.METRICS, "fidelity.explained_variance"),
    PERPLEXITY,
    GAP,
    _spec(fidelity.METRICS, "fidelity.kl"),
    kl_gap.RATIO["eps_random"],
    sparsity.L0,
    _spec(shrinkage.METRICS, "shrinkage.l2_ratio"),
)


@dataclass(frozen=True)
class Judged:
    """What the gate found of the two.

    Attributes:
        rows: a metric each.
        gates: verdicts of the gates that were decided.
    """

    rows: tuple[RepairRow, ...]
    gates: tuple[GateChange, ...]


def judge_both(bench: Bench, settings: Settings, *, progress: ProgressBar) -> Judged:
    """Judge the SAEs called before and after on their bench.

    Args:
        bench: the two SAEs, by these ids, and the tokens.
        settings: the run's.
        progress: makes a progress bar.

    Raises:
        SaebenchError: where one of the two cannot be measured.
    """
    judge = Judge(settings)
    judge.adopt([bench])
    saes = Requests([Given(s.id, "host", s.metadata.hook) for s in bench.subjects])
    judge.announce([saes.request(s.id, n, p) for s in bench.subjects for n, p in CASES])
    for request in judge.requests:
        judge.case(request, progress=progress)
    tables = _tables(judge)
    return Judged(
        (*(compared(spec, tables[BEFORE], tables[AFTER]) for spec in ROWS), _dead(judge, bench)),
        gate_changes(judge.cases),
    )


def compared(spec: MetricSpec, before: Table, after: Table) -> RepairRow:
    """Return a metric of two tables of per-sequence sums, and the paired change.

    Args:
        spec: the metric's definition.
        before: the sums of the SAE.
        after: the sums of the repaired SAE, on the same sequences.
    """
    assert spec.formula is not None
    used = (*spec.channels, spec.counts)
    formula, both = spec.formula, pair(chosen(before, used), chosen(after, used))

    def ranged(combine: Combine) -> Ranged:
        return _ranged(of_pair(formula, combine), both)

    return RepairRow(
        metric=spec.name,
        unit=spec.unit,
        direction=spec.direction,
        target=spec.target,
        before=ranged(lambda one, _: one),
        after=ranged(lambda _, two: two),
        change=ranged(difference),
        share=ranged(lambda one, two: two / one - 1),
    )


def _ranged(formula: Formula, table: Table) -> Ranged:
    found = estimate(formula, table)
    if not math.isfinite(found.value):
        return Ranged(None)
    ends = found.interval
    return Ranged(found.value, ends if ends is not None and ends.is_finite else None)


def _tables(judge: Judge) -> Mapping[str, Table]:
    """Return each SAE's per-sequence sums.

    Raises:
        SaebenchError: as it was found while measuring.
    """
    from saebench.errors import MeasurementError

    for case in judge.cases:
        if case.error is not None:
            raise MeasurementError(f"{case.sae}: {case.property} cannot be judged: {case.error}")
    found = {}
    for measured in judge.measured():
        tables = [dict(table) for table in measured.tables.values()]
        found[measured.sae.id] = {c: v for table in tables for c, v in table.items()}
    return found


def _dead(judge: Judge, bench: Bench) -> RepairRow:
    """Return the count of features that never fire; it is no formula of sums over sequences."""
    counts = {}
    for subject in bench.subjects:
        case = next(c for c in judge.cases if (c.sae, c.property) == (subject.id, "sparsity"))
        share = next(m.value for m in case.metrics if m.name == "sparsity.dead")
        counts[subject.id] = round((share or 0.0) * subject.d_sae)
    one, two = counts[BEFORE], counts[AFTER]
    share = Ranged(two / one - 1) if one else Ranged(None)
    return RepairRow(
        "dead_features", "", Direction.LOWER, None, Ranged(one), Ranged(two), Ranged(two - one),
        share,
    )  # fmt: skip


def gate_changes(cases: Sequence[CaseResult]) -> tuple[GateChange, ...]:
    """Return each gate's verdict on the two SAEs."""
    verdicts: dict[str, dict[str, str]] = {}
    for case in cases:
        for gate in case.gates:
            verdicts.setdefault(gate.rule, {})[case.sae] = gate.verdict.value
    return tuple(
        GateChange(rule, both[BEFORE], both[AFTER])
        for rule, both in verdicts.items()
        if len(both) == 2
    )


def settings_for(settings: Settings, *, sequences: int, context: int) -> Settings:
    """Return the settings that the two are judged with."""
    return replace(
        settings, sequences=sequences, context=context, interventions=INTERVENTIONS, fail_on=()
    )
