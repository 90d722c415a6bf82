"""Baselines whose every record was looked at, not their numbers alone."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saebench.errors import StoreError
from saebench.records.run import DatasetRecord, ModelRecord, SubjectRecord, Verdict
from saebench.store.baselines import read_baseline


@dataclass(frozen=True)
class _Metric:
    version: int
    value: float | None
    ci: tuple[float, float] | None
    unit: str
    sequences: int


@dataclass(frozen=True)
class _Case:
    property: str
    params: dict[str, Any]
    fingerprint: str
    verdict: Verdict
    metrics: dict[str, _Metric]
    sums: str | None


@dataclass(frozen=True)
class _Head:
    sae: SubjectRecord
    model: ModelRecord
    datasets: tuple[DatasetRecord, ...]
    cases: dict[str, _Case]


def read_checked_baseline(path: Path) -> dict[str, Any]:
    """Return a stored baseline, as :func:`saebench.store.baselines.read_baseline` does.

    The SAE, the model, the data and the cases that it names are checked too: whatever shows,
    ranks or compares it reads them as they stand.

    Raises:
        StoreError: naming the file and the place in it.
    """
    from pydantic import TypeAdapter, ValidationError

    content = read_baseline(path)
    try:
        # As JSON, since only there a list may be a tuple where nothing else is converted.
        told = json.dumps({n: content.get(n) for n in _Head.__annotations__})
        TypeAdapter(_Head).validate_json(told, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise StoreError(
            f"{path}: no saebench baseline: {place}: {first['msg']}; measure it again"
        ) from error
    _check_sums(content, path)
    return content


def _check_sums(content: dict[str, Any], path: Path) -> None:
    """Refuse sums that are no numbers, or of different numbers of sequences."""
    lengths: dict[str, int] = {}
    for name, array in content["arrays"].items():
        source, _, channel = name.rpartition("/")
        if array.ndim != 1 or array.dtype.kind not in "fiu":
            raise StoreError(f"{path}: its sums {channel!r} are no list of numbers")
        if lengths.setdefault(source, len(array)) != len(array):
            raise StoreError(f"{path}: its sums {channel!r} are of another number of sequences")
