"""Stored baselines: what an SAE measured when it was released, with its per-sequence sums.

One SAE has ``<model>/<hook>/<sae>@<sha8>.json`` and beside it an ``.npz`` of per-sequence sums,
without which a later run could not be compared pair by pair. The JSON names the npz by its
content: replacing the JSON is the one step that makes an update count.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from math import isfinite, prod
from pathlib import Path
from typing import Any

import numpy as np

from saebench.errors import StoreError
from saebench.records.run import (
    CaseResult,
    DatasetRecord,
    Metric,
    ModelRecord,
    SubjectRecord,
    Verdict,
)
from saebench.store.atomic import locked, replace_file
from saebench.store.json_files import HALVES, loads
from saebench.text import file_part

SCHEMA_VERSION = 2
READ_VERSIONS = (1, SCHEMA_VERSION)
HEAD = ("stored", "sae", "model", "datasets")
LARGEST_ARRAY_BYTES = 1 << 28  # 33 million sequences; a run has thousands
_HEADERS = {(1, 0): "read_array_header_1_0", (2, 0): "read_array_header_2_0"}
Tables = Mapping[str, Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Measured:
    """What a run found of one SAE: the content of its baseline.

    ``tables`` are per-sequence sums by channel, keyed by what they were measured on: sums of
    other tokens or another seed have another key, so that an update never mixes them.
    ``table_of`` says by case id which of them the case was made of. ``noise`` is by case id and
    metric how much the value changes where the same is measured again.
    """

    sae: SubjectRecord
    model: ModelRecord
    datasets: tuple[DatasetRecord, ...]
    cases: tuple[CaseResult, ...]
    tables: Tables
    table_of: Mapping[str, str]
    noise: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Content:
    """What an update leaves in the files: cases and data by name, sums by tokens and channel."""

    cases: dict[str, Any]
    datasets: list[dict[str, Any]]
    arrays: dict[str, np.ndarray]


@dataclass(frozen=True)
class Change:
    """One metric of one baseline, before and after; ``before`` is None for a new one."""

    case: str
    metric: str
    before: float | None
    after: float | None


def baseline_path(root: Path, sae: SubjectRecord, model: ModelRecord) -> Path:
    """Return where an SAE's baseline lies; names become single, harmless path parts.

    Example:
        >>> file_part("../org/name")
        '__org_name'
    """
    name = f"{file_part(sae.id)}@{sae.weights_sha256[:8]}.json"
    return root / file_part(model.name) / file_part(sae.hook) / name


def update_baseline(root: Path, measured: Measured, *, only_new: bool) -> list[Change]:
    """Store what was measured; cases that this run did not select stay as they are.

    Args:
        root: the baselines directory.
        measured: one SAE's results.
        only_new: leave cases that are stored already.

    Raises:
        StoreError: where a case is an ERROR, a number is not finite, or the files cannot be read
            or written; nothing of this SAE's is then changed.
    """
    dirty = _why_dirty(measured)
    if dirty:
        raise StoreError(f"baseline of {measured.sae.id} not updated: {dirty}")
    path = _own_path(baseline_path(root, measured.sae, measured.model), measured.sae)
    if all(case.verdict is Verdict.SKIPPED for case in measured.cases):
        return []
    # Of two updates at once the second must read what the first wrote, or it would undo it and
    # remove the sums that the first one's JSON names.
    with locked(path.parent):
        return _update(path, measured, only_new=only_new)


def _own_path(path: Path, sae: SubjectRecord) -> Path:
    """Return the path, or beside it one of the SAE's own where it is another name's.

    Names lose what no path may hold: ``a/b`` and ``a_b`` would be stored in one file.
    """
    try:
        stored = loads(path.read_text(encoding="utf-8"))["sae"]["id"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return path  # there is none, or it is damaged, which reading it says
    if stored == sae.id:
        return path
    short = hashlib.sha256(sae.id.encode(errors=HALVES)).hexdigest()[:8]
    name, _, weights = path.name.rpartition("@")
    return path.with_name(f"{name}-{short}@{weights}")


def _why_dirty(measured: Measured) -> str | None:
    """Say why a measurement is none to hold others against: an ERROR, or what is not finite."""
    for case in measured.cases:
        if case.verdict is Verdict.ERROR:
            return f"{case.id} is an ERROR"
        for metric in case.metrics:
            numbers = [metric.value, *((metric.ci.low, metric.ci.high) if metric.ci else ())]
            if not all(n is None or isfinite(n) for n in numbers):
                return f"{metric.name} of {case.id} is {metric.value}, or its interval is no number"
    used = {measured.table_of[case.id] for case in measured.cases if case.id in measured.table_of}
    for name in used & set(measured.tables):
        for channel, values in measured.tables[name].items():
            if not np.isfinite(values).all():
                return f"{channel} is not finite in {int((~np.isfinite(values)).sum())} sequences"
    return None


def _update(path: Path, measured: Measured, *, only_new: bool) -> list[Change]:
    empty: dict[str, Any] = {"cases": {}, "datasets": [], "arrays": {}}
    old = read_baseline(path) if path.exists() else empty
    cases = dict(old["cases"])
    changes = []
    for case in measured.cases:
        if case.verdict is Verdict.SKIPPED or (only_new and case.id in cases):
            continue
        changes += _changes(case, cases.get(case.id))
        noise = measured.noise.get(case.id, {})
        cases[case.id] = _stored(case, noise) | {"sums": measured.table_of.get(case.id)}
    if changes:
        used = {case["sums"] for case in cases.values()}
        arrays = dict(old["arrays"]) | dict(_flat(measured.tables))
        arrays = {name: a for name, a in arrays.items() if name.rpartition("/")[0] in used}
        datasets = {data["fingerprint"]: data for data in old["datasets"]}
        datasets |= {data.fingerprint: asdict(data) for data in measured.datasets}
        _write(path, measured, Content(cases, list(datasets.values()), arrays), old)
    return changes


def read_baseline(path: Path) -> dict[str, Any]:
    """Return a stored baseline, its per-sequence sums under ``arrays``.

    Raises:
        StoreError: where it is damaged, altered, or of another schema version.
    """
    try:
        content = loads(path.read_text(encoding="utf-8"))
        version = content["schema_version"]
        if version not in READ_VERSIONS or isinstance(version, bool):
            raise StoreError(
                f"{path}: schema_version {version}, this saebench reads "
                f"{' and '.join(map(str, READ_VERSIONS))}; measure it again: --sae-update-baselines"
            )
        numbers_are_theirs = content["cases_sha256"] == _sha256(content["cases"])
        # Version 1 had neither a date nor a checksum of what was measured.
        head_is_theirs = version == 1 or content["head_sha256"] == _head_sha256(content)
        data = (path.parent / Path(content["arrays"]["file"]).name).read_bytes()
        sums_are_theirs = content["arrays"]["sha256"] == hashlib.sha256(data).hexdigest()
    except OSError as error:
        raise StoreError(f"{error.filename or path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"{path}: no saebench baseline ({error!r}); measure it again") from error
    if not numbers_are_theirs or not isinstance(content["cases"], dict):
        raise StoreError(f"{path}: its numbers were edited by hand; measure it again")
    if not head_is_theirs:
        raise StoreError(
            f"{path}: what it says of the SAE, the model or the data was edited by hand; measure "
            "it again"
        )
    if not sums_are_theirs:
        raise StoreError(f"{path}: its per-sequence sums were altered; measure it again")
    return {"stored": ""} | content | {"arrays": _arrays(path, data)}


def _arrays(path: Path, data: bytes) -> dict[str, np.ndarray]:
    try:
        _check_sizes(data)
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:
        # numpy, zipfile and zlib raise whatever damaged bytes lead them to.
        raise StoreError(f"{path}: its per-sequence sums are no npz ({error!r})") from error


def _check_sizes(data: bytes) -> None:
    """Refuse sums that unpack to more than any run's, before memory is taken for them.

    Raises:
        ValueError: naming the array.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member in archive.infolist():
            with archive.open(member) as file:
                read = _HEADERS[np.lib.format.read_magic(file)]
                shape, _, kind = getattr(np.lib.format, read)(file)
                told = prod(shape) * kind.itemsize
                if told != member.file_size - file.tell() or told > LARGEST_ARRAY_BYTES:
                    raise ValueError(f"{member.filename}: {told} bytes by its header")


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _head_sha256(content: Mapping[str, Any]) -> str:
    return _sha256({name: content[name] for name in HEAD})


def _write(path: Path, measured: Measured, parts: "Content", old: Mapping[str, Any]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **parts.arrays)  # pyright: ignore[reportArgumentType]
    data = buffer.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    sums = path.with_name(f"{path.stem}.{digest[:8]}.npz")
    head = {
        "stored": datetime.now(UTC).isoformat(timespec="microseconds"),
        "sae": asdict(measured.sae),
        "model": asdict(measured.model),
        "datasets": parts.datasets,
    }
    told = json.loads(json.dumps(head | {"cases": parts.cases}))
    if all(old.get(n) == value for n, value in told.items() if n != "stored") and old["stored"]:
        head["stored"] = old["stored"]  # the same measurement is no newer
    content = {
        "schema_version": SCHEMA_VERSION,
        **head,
        "head_sha256": _head_sha256(json.loads(json.dumps(head))),
        "cases": dict(sorted(parts.cases.items())),
        "cases_sha256": _sha256(parts.cases),
        "arrays": {"file": sums.name, "sha256": digest},
    }
    text = json.dumps(content, allow_nan=False, indent=1, ensure_ascii=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(sums, data)
        replace_file(path, text.encode(errors=HALVES))
        for stale in path.parent.glob(f"{path.stem}.*.npz"):
            if stale != sums:
                stale.unlink()
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror}") from error


def _stored(case: CaseResult, noise: Mapping[str, float]) -> dict[str, Any]:
    return {
        "property": case.property,
        "params": case.params,
        "fingerprint": case.fingerprint,
        "verdict": case.verdict.value,
        "metrics": {m.name: _number(m, noise.get(m.name)) for m in case.metrics},
    }


def _number(metric: Metric, noise: float | None) -> dict[str, Any]:
    ci = metric.ci
    return {
        "version": metric.version,
        "value": metric.value,
        "ci": [ci.low, ci.high] if ci else None,
        "unit": metric.unit,
        "sequences": metric.n.sequences,
    } | ({} if noise is None else {"noise": noise})


def _changes(case: CaseResult, stored: dict[str, Any] | None) -> Iterator[Change]:
    before = stored["metrics"] if stored else {}
    for metric in case.metrics:
        old = before.get(metric.name, {}).get("value")
        yield Change(case.id, metric.name, old, metric.value)


def _flat(tables: Tables) -> Iterator[tuple[str, np.ndarray]]:
    for source, table in tables.items():
        for channel, values in table.items():
            yield f"{source}/{channel}", values
