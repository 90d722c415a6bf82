"""An SAE before and after its repair: both judged on the same tokens, and compared in pairs."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from saebench.errors import MeasurementError
from saebench.experiments.bench import Bench
from saebench.judging.in_process import judge_in_process, requests_of
from saebench.judging.judge import Judge
from saebench.progress import ProgressBar
from saebench.properties import fidelity, kl_gap, shrinkage, sparsity
from saebench.properties.base import MetricSpec
from saebench.records.case_result import CaseResult
from saebench.records.metric import Direction
from saebench.records.repair import GateChange, Ranged, RepairRow
from saebench.records.run import Run
from saebench.statistics.bootstrap import Formula, Table, estimate
from saebench.statistics.clusters import chosen
from saebench.statistics.paired import Combine, difference, of_pair, pair

BEFORE, AFTER = "before", "after"
CASES = (("fidelity", {}), ("shrinkage", {}), ("sparsity", {}), ("kl_gap", {"scope": "all"}))


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


def judge_both(
    bench: Bench, *, progress: ProgressBar
) -> tuple[tuple[RepairRow, ...], tuple[GateChange, ...]]:
    """Return the metrics and the gates' verdicts of the SAEs called before and after.

    Args:
        bench: the two SAEs, by these ids, and the tokens.
        progress: makes a progress bar.

    Raises:
        MeasurementError: where one of the two cannot be measured.
    """
    judge, saes = Judge(bench.settings), requests_of([bench])
    requests = [saes.request(s.id, name, params) for s in bench.subjects for name, params in CASES]
    run = judge_in_process(judge, [bench], requests, progress=progress)
    tables = _tables(judge)
    rows = [compared(spec, tables[BEFORE], tables[AFTER]) for spec in ROWS]
    sizes = {subject.id: subject.d_sae for subject in bench.subjects}
    return (*rows, dead_features(run, sizes)), gate_changes(run.cases)


def compared(spec: MetricSpec, before: Table, after: Table) -> RepairRow:
    """Return a metric of two tables of per-sequence sums, and its paired change.

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
    result = estimate(formula, table)
    if not math.isfinite(result.value):
        return Ranged(None)
    ends = result.interval
    return Ranged(result.value, ends if ends is not None and ends.is_finite else None)


def _tables(judge: Judge) -> Mapping[str, Table]:
    """Return each SAE's per-sequence sums.

    Raises:
        MeasurementError: as the case's error says.
    """
    for case in judge.cases:
        if case.error is not None:
            raise MeasurementError(f"{case.sae}: {case.property} cannot be judged: {case.error}")
    return {
        measured.sae.id: {c: v for table in measured.tables.values() for c, v in table.items()}
        for measured in judge.measured()
    }


def dead_features(run: Run, sizes: Mapping[str, int]) -> RepairRow:
    """Return the number of features that never fire, which no sum over sequences gives.

    Args:
        run: of both SAEs.
        sizes: the number of each SAE's features.
    """
    one, two = (_dead(run, sae, sizes[sae]) for sae in (BEFORE, AFTER))
    share = Ranged(two / one - 1) if one else Ranged(None)
    return RepairRow(
        "dead_features", "", Direction.LOWER, None, Ranged(one), Ranged(two), Ranged(two - one),
        share,
    )  # fmt: skip


def _dead(run: Run, sae: str, features: int) -> int:
    case = next(c for c in run.cases if (c.sae, c.property) == (sae, "sparsity"))
    share = next(m.value for m in case.metrics if m.name == "sparsity.dead")
    return round((share or 0.0) * features)


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
