"""A run's record: the SAEs, their data and cases, when and where they were judged."""

import uuid
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from saebench.gates.evidence import corrected
from saebench.judging.drifts import with_drift_notes
from saebench.options import Settings
from saebench.records.case_result import CaseResult
from saebench.records.run import SCHEMA_VERSION, Run, RunRecord, Unjudged
from saebench.store.environment import environment, harness, machine

if TYPE_CHECKING:
    from saebench.experiments.bench import Bench


@dataclass(frozen=True)
class About:
    """How a run was started: the command line, the time, and the settings."""

    argv: tuple[str, ...]
    started: datetime
    settings: Settings


def record_of(
    about: About,
    benches: "Sequence[Bench]",
    cases: Sequence[CaseResult],
    *,
    path: Callable[[str], str],
    complete: bool,
    unjudged: tuple[Unjudged, ...] = (),
) -> Run:
    """Return a run's record, its secondary gates corrected for their number.

    Args:
        about: how the run was started.
        benches: the SAEs with their shared models and tokens.
        cases: the decided cases.
        path: returns how the model was run with an SAE, by its id.
        complete: every announced case was decided.
        unjudged: the deciding cases that were left out.
    """
    record = RunRecord(
        id=uuid.uuid4().hex,
        status="",
        started=about.started.isoformat(timespec="seconds"),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        argv=about.argv,
        profile=about.settings.profile.value,
        seed=about.settings.seed,
        complete=complete and not unjudged,
        unjudged=unjudged,
        allows_partial=about.settings.allow_partial,
        least_documents=about.settings.min_documents,
    )
    run = Run(
        schema_version=SCHEMA_VERSION,
        run=record,
        harness=harness(),
        env=environment(),
        machine=machine(),
        models=tuple(dict.fromkeys(bench.model for bench in benches)),
        datasets=tuple(data for bench in benches for data in bench.data.values()),
        saes=tuple(b.describe(s, path=path(s.id)) for b in benches for s in b.subjects),
        cases=with_drift_notes(corrected(cases)),
        cost=tuple(cost for bench in benches for cost in bench.costs),
    )
    return _with_status(run)


def _with_status(run: Run) -> Run:
    return replace(run, run=replace(run.run, status=run.verdict.value))


def merge_runs(runs: Sequence[Run], *, announced: Sequence[str] = ()) -> Run:
    """Return one run of several processes' cases, in whichever order the processes ended.

    Args:
        runs: one for each process; a case that is in several is equal in them.
        announced: ids of the cases that there should be, in their order; where there are none,
            cases are in the order of their ids.

    Raises:
        ValueError: for no run at all.
    """
    if not runs:
        raise ValueError("there is no run to merge")
    places = {id: place for place, id in enumerate(announced)}
    runs = sorted(runs, key=lambda run: _first(run, places))
    first = runs[0]
    by_id = {case.id: case for run in runs for case in run.cases}
    cases = sorted(by_id.values(), key=lambda case: (places.get(case.id, len(places)), case.id))
    unjudged = _unjudged(runs, by_id)
    record = replace(
        first.run,
        started=min(run.run.started for run in runs),
        finished=max(run.run.finished or "" for run in runs),
        complete=not unjudged and _are_finished(runs) and set(places) <= set(by_id),
        unjudged=unjudged,
    )
    merged = replace(
        first,
        run=record,
        models=_each_once((m for run in runs for m in run.models), key="weights_sha256"),
        datasets=_each_once((d for run in runs for d in run.datasets), key="fingerprint"),
        saes=_saes(runs, in_order=bool(announced)),
        cases=with_drift_notes(corrected(cases)),
        cost=tuple(cost for run in runs for cost in run.cost),
    )
    return _with_status(merged)


def _are_finished(runs: Sequence[Run]) -> bool:
    """True where no process was interrupted, though each leaves out the cases of the others."""
    return all(run.run.complete or run.run.unjudged for run in runs)


def _unjudged(runs: Sequence[Run], judged: Container[str]) -> tuple[Unjudged, ...]:
    """Return the deciding cases that no process judged; each process lists those of the others."""
    left_out = (each for run in runs for each in run.run.unjudged or ())
    return tuple(dict.fromkeys(each for each in left_out if each.id not in judged))


def _first(run: Run, places: dict[str, int]) -> tuple[int, str]:
    """Return what sorts runs by their first case."""
    known = (places.get(case.id, len(places)) for case in run.cases)
    return min(known, default=len(places)), min((case.id for case in run.cases), default="")


def _saes(runs: Sequence[Run], *, in_order: bool) -> tuple[Any, ...]:
    """Return each SAE once, as the process that measured it describes it.

    Every process lists all of them, in the order in which they were given.
    """
    listed = [sae for run in runs for sae in run.saes]
    order = {id: place for place, id in enumerate(dict.fromkeys(sae.id for sae in listed))}
    measured_first = sorted(listed, key=lambda sae: sae.hook_path == "not measured")
    once = _each_once(measured_first, key="id")
    return tuple(sorted(once, key=lambda sae: order[sae.id] if in_order else sae.id))


def _each_once(records: Iterable[Any], *, key: str) -> tuple[Any, ...]:
    firsts: dict[str, Any] = {}
    for record in records:
        firsts.setdefault(getattr(record, key), record)
    return tuple(firsts.values())
