"""Drift notes: which deciding metrics change along the file, corrected for their number."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from saebench.errors import NotApplicable
from saebench.experiments.base import ClozePrompts, Experiment
from saebench.judging.rules_of_run import spec_of
from saebench.records.case_result import CaseResult
from saebench.records.document_order import IN_FILE, ORDER
from saebench.statistics.clusters import chosen
from saebench.statistics.drift import Drift, drift_of
from saebench.statistics.levels import holm

if TYPE_CHECKING:
    from saebench.experiments.bench import Bench

DRIFT, SENTENCES, PARTIAL = "drift", "sentences", "first of"
SHOWN = 0.01  # chance of any note in a run without drift


def drift_series(
    metrics: Iterable[str],
    measurement: Any,
    *,
    bench: "Bench",
    experiment: Experiment,
    sae: str,
) -> dict[str, Any]:
    """Return the drift of each metric that decides a case, for its series; empty without any.

    Args:
        metrics: those that decide it, in this run or, by a margin, against a baseline.
        measurement: what the metrics were computed from.
        bench: the sequences and prompts.
        experiment: the kind of measurement.
        sae: the case's SAE; of a pair, the second.
    """
    metrics = tuple(dict.fromkeys(metrics))
    if not metrics or not hasattr(measurement, "table"):
        return {}
    table = measurement.table()
    places = _places(measurement, bench=bench, experiment=experiment, sae=sae)
    drifts = {name: _drift(name, table, places) for name in metrics}
    tested = {name: asdict(drift) for name, drift in drifts.items() if drift is not None}
    if not tested:
        return {}
    partial = {PARTIAL: len(places)} if _are_first_of_more(bench, experiment, measurement) else {}
    return {DRIFT: {name: drift | partial for name, drift in tested.items()}}


def with_drift_notes(cases: Iterable[CaseResult]) -> tuple[CaseResult, ...]:
    """Return a run's cases, with a sentence for each deciding metric that drifts along the file.

    The p-values of all the run's deciding metrics are corrected together. Noting a second time, as
    where the runs of several processes are merged, changes nothing.

    Source:
        Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    cases = tuple(cases)
    tested = [(case.id, name) for case in cases for name in _drifts(case)]
    p_values = [drift["p"] for case in cases for drift in _drifts(case).values()]
    shown = {key for key, p in zip(tested, holm(p_values), strict=True) if p < SHOWN}
    return tuple(
        _noted(case, [n for n in _drifts(case) if (case.id, n) in shown]) for case in cases
    )


def _noted(case: CaseResult, shown: Sequence[str]) -> CaseResult:
    drifts = _drifts(case)
    if not drifts:
        return case
    possible = {name: _sentence(name, drift) for name, drift in drifts.items()}
    others = [s for s in case.series.get(SENTENCES, ()) if s not in possible.values()]
    sentences = [*others, *(possible[name] for name in shown)]
    rest = {name: each for name, each in case.series.items() if name != SENTENCES}
    return replace(case, series=rest | ({SENTENCES: sentences} if sentences else {}))


def _drifts(case: CaseResult) -> Mapping[str, Mapping[str, Any]]:
    return case.series.get(DRIFT, {})


def _sentence(name: str, drift: Mapping[str, Any]) -> str:
    found = (
        f"{drift['early']:.3g} in the half that comes first, {drift['late']:.3g} in the other "
        f"(p = {drift['p']:.1g})"
    )
    if PARTIAL in drift:
        return (
            f"measured on the first {drift[PARTIAL]} of the file, and {name} drifts along them: "
            f"{found}; the interval does not describe a file that has more, which --sae-order "
            "seeded draws from as a whole"
        )
    return f"{name} drifts along the file: {found}; its first texts alone would not stand for it"


def _drift(metric: str, table: Mapping[str, np.ndarray], places: np.ndarray) -> Drift | None:
    spec = spec_of(metric)
    wanted = (*spec.channels, spec.counts)
    if spec.formula is None or not set(wanted) <= set(table):
        return None
    used = chosen(table, wanted)
    if len(places) != len(used[spec.counts]):
        return None
    return drift_of(spec.formula, used, places)


def _places(measurement: Any, *, bench: "Bench", experiment: Experiment, sae: str) -> np.ndarray:
    """Return the place in its file of each row of a measurement's table."""
    every = _all_places(bench, experiment, sae)
    measured = getattr(measurement, "measured_sequences", None)
    if measured is not None:
        return every[measured]
    return every[: len(next(iter(measurement.table().values()), ()))]


def _all_places(bench: "Bench", experiment: Experiment, sae: str) -> np.ndarray:
    subject = next(each for each in bench.subjects if each.id == sae)
    try:
        tokens = experiment.on(bench).tokens_of(subject)
    except NotApplicable:
        return np.array([], dtype=np.int64)
    return np.array([], dtype=np.int64) if tokens.places is None else tokens.places


def _are_first_of_more(bench: "Bench", experiment: Experiment, measurement: Any) -> bool:
    """True if the documents are a file's first, and the file was not read to its end."""
    data = bench.data_of(experiment, measurement)
    prompts = isinstance(experiment, ClozePrompts)
    asked = bench.settings.prompt_count if prompts else bench.settings.sequence_count
    return data.policies.get(ORDER) == IN_FILE and data.sequences >= asked
