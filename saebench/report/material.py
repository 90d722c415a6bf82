"""Input of a report: a run or several joined, the leaderboard, repairs and sweeps."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from saebench.errors import OptionError
from saebench.records.boards import Leaderboard
from saebench.records.case import joined
from saebench.records.case_result import CaseResult
from saebench.records.inputs import SubjectRecord
from saebench.records.repair import RepairRecord
from saebench.records.run import Run, Unjudged
from saebench.records.sweep import SweepRecord


@dataclass(frozen=True)
class Material:
    """Everything that a report may show; all but the run is optional."""

    run: Run
    leaderboard: Leaderboard | None = None
    repairs: tuple[RepairRecord, ...] = ()
    sweeps: tuple[SweepRecord, ...] = ()


def joined_runs(runs: Sequence[Run], names: Sequence[str]) -> Run:
    """Return one run with the SAEs and cases of all.

    Args:
        runs: the runs, the newest last: facts about a run are that one's.
        names: of the runs; SAEs of one id in several runs get the run's name too.

    Raises:
        OptionError: where there are none, or one is given twice.
    """
    if not runs:
        raise OptionError("no result file to report on")
    if len(runs) == 1:
        return runs[0]
    if len(set(names)) < len(names):
        repeated = next(name for name, count in Counter(names).items() if count > 1)
        raise OptionError(f"{repeated}: given twice; a run cannot be compared with itself")
    counts = Counter(sae.id for run in runs for sae in run.saes)
    shared = {id for id, count in counts.items() if count > 1}
    renamed = [_renamed(run, name, shared) for run, name in zip(runs, names, strict=True)]
    return replace(
        runs[-1],
        run=replace(
            runs[-1].run,
            argv=(),
            complete=all(run.run.complete for run in runs),
            unjudged=_unjudged(renamed),
        ),
        models=tuple(dict.fromkeys(model for run in runs for model in run.models)),
        datasets=_once([data for run in runs for data in run.datasets]),
        saes=tuple(sae for run in renamed for sae in run.saes),
        cases=tuple(case for run in renamed for case in run.cases),
        cost=tuple(cost for run in runs for cost in run.cost),
    )


def _unjudged(runs: Sequence[Run]) -> tuple[Unjudged, ...] | None:
    """Return the deciding cases that each run left out; None where one does not say."""
    if any(run.run.unjudged is None for run in runs):
        return None
    return tuple(each for run in runs for each in run.run.unjudged or ())


def _once(records: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(r for i, r in enumerate(records) if r not in records[:i])


def _renamed(run: Run, name: str, shared: set[str]) -> Run:
    def new(id: str) -> str:
        return f"{id} ({name})" if id in shared else id

    def sae(record: SubjectRecord) -> SubjectRecord:
        return replace(record, id=new(record.id))

    def case(old: CaseResult) -> CaseResult:
        about = joined(list(map(new, old.about)))
        return replace(old, id=f"{old.kind}@{about}", sae=about, series=_series(old, new))

    unjudged = run.run.unjudged and tuple(
        replace(each, sae=new(each.sae), id=f"{each.id.removesuffix(each.sae)}{new(each.sae)}")
        for each in run.run.unjudged
    )
    return replace(
        run,
        run=replace(run.run, unjudged=unjudged),
        saes=tuple(map(sae, run.saes)),
        cases=tuple(map(case, run.cases)),
    )


def _series(case: CaseResult, new: Callable[[str], str]) -> dict[str, Any]:
    """Return the case's series, with the new names in a pair's heat map."""
    if "heat_map" not in case.series:
        return case.series
    cell = case.series["heat_map"]
    named = cell | {"row": new(cell["row"]), "column": new(cell["column"])}
    return case.series | {"heat_map": named}
