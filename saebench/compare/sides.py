"""What can be compared: SAEs of baselines and result files, with their per-sequence sums."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from saebench.compare.comparison import Side
from saebench.compare.differences import SideCase
from saebench.errors import StoreError
from saebench.properties import properties
from saebench.properties.base import MetricSpec
from saebench.records.boards import Score
from saebench.records.case import kind_of
from saebench.records.run import Basis, CaseResult, Metric, Run
from saebench.store.baseline_checks import read_checked_baseline
from saebench.store.json_files import read_json, read_run
from saebench.store.leaderboard import baseline_paths, basis_of
from saebench.store.sums_file import RunSums, read_sums, sums_path

NO_SUMS = RunSums({})


def sides_of_file(path: Path) -> dict[str, Side]:
    """Return the SAEs of a baseline or a result file by id.

    Raises:
        StoreError: where it is neither, or cannot be read.
    """
    if is_baseline(path):
        side = side_of_baseline(read_checked_baseline(path), path)
        return {side.label.partition("@")[0]: side}
    return sides_of_result(path, read_run(path))


def sides_of_result(path: Path, run: Run) -> dict[str, Side]:
    """Return the SAEs of a result file by id, with the sums that lie beside it.

    Args:
        path: the result file.
        run: its content.

    Raises:
        StoreError: where the sums are damaged, another run's, or do not give its numbers.
    """
    sums = read_sums(path, run)
    for case in run.cases:
        if case.id in sums.cases:
            _check_sums(case, sums.cases[case.id].table, where=sums_path(path))
    return sides_of_run(run, sums)


def is_baseline(path: Path) -> bool:
    """Return whether a file says of itself that it is a baseline."""
    content = read_json(path)
    return isinstance(content, dict) and "arrays" in content


def side_of_baseline(content: Mapping[str, Any], path: Path) -> Side:
    """Return a stored baseline's SAE.

    Raises:
        StoreError: where a case does not say what it was measured on.
    """
    sae, model = content["sae"], content["model"]
    cases = {}
    for id, case in content["cases"].items():
        fingerprint, seed = basis_of(case, content, path)
        first = case["params"].get("first")
        cases[kind_of(id, (sae["id"],) if first is None else (first, sae["id"]))] = SideCase(
            Basis(model["weights_sha256"], model["dtype"], fingerprint, seed),
            {name: _stored(metric) for name, metric in case["metrics"].items()},
            _table(content["arrays"], case["sums"]),
            noise={n: m["noise"] for n, m in case["metrics"].items() if "noise" in m},
        )
    return Side(f"{sae['id']}@{sae['weights_sha256'][:8]}", cases)


def sides_of_run(run: Run, sums: RunSums = NO_SUMS) -> dict[str, Side]:
    """Return the SAEs of a run by id; cases without sums are compared unpaired.

    Args:
        run: what was found.
        sums: per-sequence sums of its cases.
    """
    return {
        sae.id: Side(
            f"{sae.id}@{sae.weights_sha256[:8]}",
            {case.kind: _side_case(case, sums) for case in run.cases
             if case.sae == sae.id and case.metrics},
        )
        for sae in run.saes
    }  # fmt: skip


def _side_case(case: CaseResult, sums: RunSums) -> SideCase:
    metrics = {metric.name: _of_metric(metric) for metric in case.metrics}
    kept = sums.cases.get(case.id)
    return SideCase(case.basis, metrics, None if kept is None else kept.table)


def _check_sums(case: CaseResult, table: Mapping[str, np.ndarray], *, where: Path) -> None:
    """Hold a case's numbers against the sums that they are said to come of.

    Raises:
        StoreError: naming the first that does not.
    """
    specs = {spec.name: spec for spec in _specs_of(case.property)}
    for metric in case.metrics:
        spec = specs.get(metric.name)
        if spec is None or spec.formula is None or metric.value is None:
            continue
        wanted = (*spec.channels, spec.counts)
        if spec.version != metric.version or not set(wanted) <= set(table):
            continue
        with np.errstate(all="ignore"):
            given = float(spec.formula({c: np.asarray(table[c].sum()) for c in wanted}))
        if not math.isclose(given, metric.value, rel_tol=1e-6, abs_tol=1e-9):
            raise StoreError(
                f"{where}: its sums give {metric.name} = {given:.6g} for {case.sae}, the result "
                f"file says {metric.value:.6g}: one of the two was altered; measure again, or "
                "remove the sums to compare without pairs"
            )


def _specs_of(name: str) -> tuple[MetricSpec, ...]:
    found = properties().get(name)
    return () if found is None else found.metrics


def with_stored_sums(side: Side, root: Path) -> Side:
    """Return a result file's SAE with its stored baseline's sums, in cases that lack their own.

    Only those of cases measured on the same basis that came to the same values: sums of another
    measurement would give an interval about other numbers.

    Args:
        side: an SAE of a result file.
        root: the baselines directory.
    """
    path = next((path for path in baseline_paths(root) if path.stem == side.label), None)
    if path is None:
        return side
    stored = side_of_baseline(read_checked_baseline(path), path)
    cases = {name: _joined(case, stored.cases.get(name)) for name, case in side.cases.items()}
    return Side(side.label, cases)


def _joined(case: SideCase, stored: SideCase | None) -> SideCase:
    if case.table is not None or stored is None or stored.basis != case.basis:
        return case
    pairs = [(score, stored.metrics.get(name)) for name, score in case.metrics.items()]
    same = all(other is not None and _equal(score, other) for score, other in pairs)
    return SideCase(case.basis, case.metrics, stored.table) if same else case


def _equal(one: Score, two: Score) -> bool:
    if one.value is None or two.value is None:
        return one.value == two.value
    return one.version == two.version and math.isclose(one.value, two.value, rel_tol=1e-5)


def _table(arrays: Mapping[str, np.ndarray], sums: str) -> dict[str, np.ndarray]:
    prefix = f"{sums}/"
    return {name[len(prefix) :]: a for name, a in arrays.items() if name.startswith(prefix)}


def _stored(metric: Mapping[str, Any]) -> Score:
    ci = metric["ci"]
    return Score(metric["version"], metric["value"], (ci[0], ci[1]) if ci else None)


def _of_metric(metric: Metric) -> Score:
    ci = (metric.ci.low, metric.ci.high) if metric.ci else None
    return Score(metric.version, metric.value, ci)
