"""Merging the runs of several processes into one."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from saebench.judging.secondary import corrected
from saebench.results import Run, overall


def merge_runs(runs: Sequence[Run], *, announced: Sequence[str] = ()) -> Run:
    """Return one run of several processes' cases, whichever of them was done first.

    Args:
        runs: what each process found; every case once, or alike.
        announced: ids of the cases that there should be, in their order; none where that is
            not known, cases are then in the order of their ids.

    Raises:
        ValueError: for no run at all.
    """
    if not runs:
        raise ValueError("there is no run to merge")
    places = {id: place for place, id in enumerate(announced)}
    runs = sorted(runs, key=lambda run: _first(run, places))
    first = runs[0]
    found = {case.id: case for run in runs for case in run.cases}
    cases = sorted(found.values(), key=lambda case: (places.get(case.id, len(places)), case.id))
    record = replace(
        first.run,
        status=overall(case.verdict for case in cases).value,
        started=min(run.run.started for run in runs),
        finished=max(run.run.finished or "" for run in runs),
        complete=all(run.run.complete for run in runs) and set(places) <= set(found),
    )
    return replace(
        first,
        run=record,
        models=_each_once((m for run in runs for m in run.models), key="weights_sha256"),
        datasets=_each_once((d for run in runs for d in run.datasets), key="fingerprint"),
        saes=_saes(runs, in_order=bool(announced)),
        cases=corrected(cases),
        cost=tuple(cost for run in runs for cost in run.cost),
    )


def _first(run: Run, places: dict[str, int]) -> tuple[int, str]:
    """Return what sorts a run before those whose first case comes later."""
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
    found: dict[str, Any] = {}
    for record in records:
        found.setdefault(getattr(record, key), record)
    return tuple(found.values())
