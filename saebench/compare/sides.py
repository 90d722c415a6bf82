"""The SAEs of baselines and result files as sides of a comparison, with per-sequence sums."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from saebench.compare.comparison import Side
from saebench.compare.differences import SideCase
from saebench.errors import StoreError
from saebench.properties import properties
from saebench.properties.base import MetricSpec
from saebench.records.baseline import StoredBaseline
from saebench.records.case import kind_of
from saebench.records.case_result import Basis, CaseResult
from saebench.records.document_order import ORDER
from saebench.records.inputs import DatasetRecord
from saebench.records.metric import MetricValue
from saebench.records.run import Run
from saebench.store.baselines import load_baseline
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
        side = side_of_baseline(load_baseline(path), path)
        return {side.label.partition("@")[0]: side}
    return sides_of_result(path, read_run(path))


def sides_of_result(path: Path, run: Run) -> dict[str, Side]:
    """Return the SAEs of a result file by id, with the sums of the file next to it.

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


def side_of_baseline(baseline: StoredBaseline, path: Path) -> Side:
    """Return a stored baseline's SAE.

    Raises:
        StoreError: where a case does not say what it was measured on, naming the file.
    """
    record, cases = baseline.record, {}
    for id, case in record.cases.items():
        first = case.params.get("first")
        kind = kind_of(id, (record.sae.id,) if first is None else (first, record.sae.id))
        kind = _current_kind(case.property, case.params, kind)
        noise = {n: m.noise for n, m in case.metrics.items() if m.noise is not None}
        basis = basis_of(case, baseline, path)
        order = order_of(record.datasets, basis)
        cases[kind] = SideCase(basis, case.metrics, baseline.table(case), noise, order)
    return Side(record.label, cases)


def sides_of_run(run: Run, sums: RunSums = NO_SUMS) -> dict[str, Side]:
    """Return the SAEs of a run by id; cases without sums are compared unpaired.

    Args:
        run: the run.
        sums: per-sequence sums of its cases.
    """
    return {
        sae.id: Side(
            f"{sae.id}@{sae.weights_sha256[:8]}",
            {
                _current_kind(case.property, case.params, case.kind): _side_case(case, run, sums)
                for case in run.cases_of(sae.id)
                if case.metrics
            },
        )
        for sae in run.saes
    }  # fmt: skip


def _current_kind(property_name: str, params: Mapping[str, Any], kind: str) -> str:
    """Return a case's kind today: one stored before its property had parameters is the default's.

    Example:
        >>> _current_kind("context_length", {}, "context_length")
        'context_length[reach=beyond]'
    """
    declared = properties().get(property_name)
    if declared is None or not declared.defaults or set(dict(declared.defaults)) & set(params):
        return kind
    name, _, rest = kind.partition(" after ")
    if name != property_name:
        return kind
    filled = ",".join(f"{key}={value}" for key, value in sorted(declared.defaults))
    return f"{name}[{filled}]" + (f" after {rest}" if rest else "")


def _side_case(case: CaseResult, run: Run, sums: RunSums) -> SideCase:
    own, order = sums.cases.get(case.id), order_of(run.datasets, case.basis)
    return SideCase(case.basis, case.by_name, None if own is None else own.table, order=order)


def order_of(datasets: Iterable[DatasetRecord], basis: Basis | None) -> str | None:
    """Return the order of the documents of a basis; None where the records do not say."""
    data = (each for each in datasets if basis is not None and each.fingerprint == basis.dataset)
    return next((each.policies.get(ORDER) for each in data), None)


def _check_sums(case: CaseResult, table: Mapping[str, np.ndarray], *, where: Path) -> None:
    """Refuse sums that do not give the case's metrics.

    Raises:
        StoreError: naming the first that differs.
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
            value = float(spec.formula({c: np.asarray(table[c].sum()) for c in wanted}))
        if not math.isclose(value, metric.value, rel_tol=1e-6, abs_tol=1e-9):
            raise StoreError(
                f"{where}: its sums give {metric.name} = {value:.6g} for {case.sae}, the result "
                f"file says {metric.value:.6g}: one of the two was altered; measure again, or "
                "remove the sums to compare without pairs"
            )


def _specs_of(name: str) -> tuple[MetricSpec, ...]:
    declared = properties().get(name)
    return () if declared is None else declared.metrics


def with_stored_sums(side: Side, root: Path) -> Side:
    """Return a result file's SAE with its stored baseline's sums, in cases that lack their own.

    They are taken for cases of the same basis and the same values only: sums of another
    measurement would give an interval around other numbers.

    Args:
        side: an SAE of a result file.
        root: the baselines directory.
    """
    path = next((path for path in baseline_paths(root) if path.stem == side.label), None)
    if path is None:
        return side
    stored = side_of_baseline(load_baseline(path), path)
    cases = {name: _with_sums(case, stored.cases.get(name)) for name, case in side.cases.items()}
    return Side(side.label, cases)


def _with_sums(case: SideCase, stored: SideCase | None) -> SideCase:
    if case.table is not None or stored is None or stored.basis != case.basis:
        return case
    pairs = [(metric, stored.metrics.get(name)) for name, metric in case.metrics.items()]
    same = all(other is not None and _equal(metric, other) for metric, other in pairs)
    return replace(case, table=stored.table) if same else case


def _equal(one: MetricValue, two: MetricValue) -> bool:
    if one.value is None or two.value is None:
        return one.value == two.value
    return one.version == two.version and math.isclose(one.value, two.value, rel_tol=1e-5)
