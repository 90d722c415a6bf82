"""What figures need of a run: cases by property, metrics by name, SAEs by depth."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from saebench.errors import OptionError
from saebench.records.boards import Leaderboard
from saebench.records.repair import RepairRecord
from saebench.records.run import CaseResult, Metric, Run, SubjectRecord
from saebench.records.sweep import SweepRecord
from saebench.report.charts import Axis, Form, Layer
from saebench.text import percent

NO_INTERVAL = "means, without intervals"


@dataclass(frozen=True)
class Material:
    """What a report is made of: a run, the leaderboard beside it, repairs and sweeps, if any."""

    run: Run
    leaderboard: Leaderboard | None = None
    repairs: tuple[RepairRecord, ...] = ()
    sweeps: tuple[SweepRecord, ...] = ()


def cases_of(run: Run, name: str, **params: Any) -> list[CaseResult]:
    """Return a property's cases with these parameters, by the depth of their SAE."""
    order = {id: i for i, id in enumerate(by_depth(run.saes))}
    found = [
        case
        for case in run.cases
        if case.property == name and params.items() <= case.params.items()
    ]
    return sorted(found, key=lambda case: order.get(case.sae, len(order)))


def with_series(cases: Iterable[CaseResult], name: str) -> Iterator[tuple[str, Any, CaseResult]]:
    """Give the SAE, the series and the case, of the cases that have a series of this name."""
    for case in cases:
        found = case.series.get(name)
        if found:
            yield case.sae, found, case


def metric_of(case: CaseResult, name: str) -> Metric | None:
    """Return the case's metric of this name if it has a value."""
    found = (m for m in case.metrics if m.name == name and m.value is not None)
    return next(found, None)


def by_depth(saes: Iterable[SubjectRecord]) -> list[str]:
    """Return the SAEs' ids in the order of their places in the model, then by name."""
    return [sae.id for sae in sorted(saes, key=lambda s: (layer_of(s.hook), s.hook, s.id))]


def layer_of(hook: str) -> int:
    """Return the block's number in a hook's name; -1 where it has none.

    Example:
        >>> layer_of("blocks.11.hook_resid_pre")
        11
    """
    found = re.search(r"\d+", hook)
    return int(found.group()) if found else -1


def bars(
    name: str, cases: Iterable[CaseResult], metric: str, *, form: Form = Form.BARS, key: str = ""
) -> Layer:
    """Return one metric of each case, with its interval, by SAE."""
    found = [(case.sae, m) for case in cases if (m := metric_of(case, metric))]
    return Layer(
        name,
        form,
        [sae for sae, _ in found],
        [m.value for _, m in found],
        [m.ci.low if m.ci else None for _, m in found],
        [m.ci.high if m.ci else None for _, m in found],
        key=key,
    )


def sae_axis(cases: Iterable[CaseResult]) -> Axis:
    """Return the axis of the cases' SAEs, in their order."""
    return Axis("SAE, by depth", categories=tuple(dict.fromkeys(case.sae for case in cases)))


def size_of(cases: Iterable[CaseResult], what: str = "documents") -> str:
    """Return how much data the cases rest on, in words."""
    sizes = {(m.n.sequences, m.n.tokens) for case in cases for m in case.metrics[:1]}
    if not sizes:
        return "n unknown"
    most, least = max(sizes), min(sizes)
    each = "" if most == least else f"{least[0]:,} to "
    tokens = f", {most[1]:,} tokens" if most[1] != most[0] else ""
    return f"n = {each}{most[0]:,} {what}{tokens}"


def interval_heading(cases: Iterable[CaseResult]) -> str:
    """Return what a column of the cases' intervals is called; their levels differ by look."""
    found = (metric.ci for case in cases for metric in case.metrics if metric.ci is not None)
    levels = {ci.level for ci in found}
    return f"{percent(levels.pop())} CI" if len(levels) == 1 else "CI"


def interval_of(cases: Iterable[CaseResult]) -> str:
    """Return what the cases' intervals are, in words."""
    for case in cases:
        for metric in case.metrics:
            if metric.ci is not None:
                return f"{percent(metric.ci.level)} CI, {metric.ci.method}"
    return NO_INTERVAL


def joined_runs(runs: Sequence[Run], names: Sequence[str]) -> Run:
    """Return one run with the SAEs and cases of all.

    Args:
        runs: the runs, the newest last: what is told of a run is told of that one.
        names: what tells them apart.

    Raises:
        OptionError: where there are none, or one is given twice.
    """
    if not runs:
        raise OptionError("no result file to report on")
    if len(runs) == 1:
        return runs[0]
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise OptionError(f"{twice}: given twice; a run cannot be compared with itself")
    counts = Counter(sae.id for run in runs for sae in run.saes)
    shared = {id for id, count in counts.items() if count > 1}
    renamed = [_renamed(run, name, shared) for run, name in zip(runs, names, strict=True)]
    return replace(
        runs[-1],
        run=replace(runs[-1].run, argv=(), complete=all(run.run.complete for run in runs)),
        models=tuple(dict.fromkeys(model for run in runs for model in run.models)),
        datasets=_once([data for run in runs for data in run.datasets]),
        saes=tuple(sae for run in renamed for sae in run.saes),
        cases=tuple(case for run in renamed for case in run.cases),
        cost=tuple(cost for run in runs for cost in run.cost),
    )


def _once(records: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(r for i, r in enumerate(records) if r not in records[:i])


def _renamed(run: Run, name: str, shared: set[str]) -> Run:
    def new(id: str) -> str:
        return f"{id} ({name})" if id in shared else id

    def sae(record: SubjectRecord) -> SubjectRecord:
        return replace(record, id=new(record.id))

    def case(found: CaseResult) -> CaseResult:
        about = "→".join(map(new, found.about))
        return replace(found, id=f"{found.kind}@{about}", sae=about, series=_series(found, new))

    return replace(run, saes=tuple(map(sae, run.saes)), cases=tuple(map(case, run.cases)))


def _series(case: CaseResult, new: Any) -> dict[str, Any]:
    """Return the case's series, with the new names where a pair's are in them."""
    if "heat_map" not in case.series:
        return case.series
    shown = case.series["heat_map"]
    named = shown | {"row": new(shown["row"]), "column": new(shown["column"])}
    return case.series | {"heat_map": named}
