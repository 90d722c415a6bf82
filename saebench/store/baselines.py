"""Stored baselines: an SAE's metrics when it was released, with their per-sequence sums.

One SAE has ``<model>/<hook>/<sae>@<sha8>.json`` and next to it an ``.npz`` of per-sequence sums,
without which a later run could not be compared pair by pair. The JSON names the npz by a hash of
its content: an update takes effect in one step, when the JSON is replaced.
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

from saebench.errors import NotWritten, StoreError
from saebench.records.baseline import BASELINE, StoredBaseline
from saebench.records.case_result import CaseResult
from saebench.records.inputs import DatasetRecord, ModelRecord, SubjectRecord
from saebench.records.verdict import Verdict
from saebench.store.atomic import locked, replace_files
from saebench.store.json_files import HALVES, loads, record_of_content
from saebench.text import file_part

HEAD = ("stored", "sae", "model", "datasets")
LARGEST_ARRAY_BYTES = 1 << 28  # 33 million sequences; a run has thousands
_HEADERS = {(1, 0): "read_array_header_1_0", (2, 0): "read_array_header_2_0"}
Tables = Mapping[str, Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Measured:
    """A run's results on one SAE, for its baseline.

    Attributes:
        sae: the SAE.
        model: the language model.
        datasets: the token sequences.
        cases: the results.
        tables: per-sequence sums by channel, keyed by source, tokens and seed, so that an update
            never mixes sums of other tokens or another seed.
        table_of: by case id, the key of its table.
        noise: by case id and metric, the re-measurement noise: how much the value changes where
            the same is measured again.
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
    """The files' content after an update: cases by id, data, sums by table and channel."""

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
    """Return the path of an SAE's baseline; names become single, harmless path parts.

    Example:
        >>> file_part("../org/name")
        '__org_name'
    """
    name = f"{file_part(sae.id)}@{sae.weights_sha256[:8]}.json"
    return root / file_part(model.name) / file_part(sae.hook) / name


def update_baseline(root: Path, measured: Measured, *, only_new: bool) -> list[Change]:
    """Store a run's results on an SAE; cases that the run did not select stay as they are.

    Args:
        root: the baselines directory.
        measured: one SAE's results.
        only_new: leave cases that are stored already.

    Raises:
        StoreError: where a case is an ERROR, a number is not finite, or the files cannot be read
            or written; this SAE's files are then unchanged.
    """
    problem = _problem(measured)
    if problem:
        raise StoreError(f"baseline of {measured.sae.id} not updated: {problem}")
    path = _own_path(baseline_path(root, measured.sae, measured.model), measured.sae)
    if all(case.verdict is Verdict.SKIPPED for case in measured.cases):
        return []
    # Of two updates at once the second must read what the first wrote, or it would undo it and
    # remove the sums that the first one's JSON names.
    with locked(path.parent):
        return _update(path, measured, only_new=only_new)


def _own_path(path: Path, sae: SubjectRecord) -> Path:
    """Return the path, or one with a hash of the SAE's id where another SAE's baseline is there.

    Characters that no path may hold are replaced: ``a/b`` and ``a_b`` would be one file.
    """
    try:
        stored = loads(path.read_text(encoding="utf-8"))["sae"]["id"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return path  # no file, or a damaged one, of which reading it gives the error
    if stored == sae.id:
        return path
    short = hashlib.sha256(sae.id.encode(errors=HALVES)).hexdigest()[:8]
    name, _, weights = path.name.rpartition("@")
    return path.with_name(f"{name}-{short}@{weights}")


def _problem(measured: Measured) -> str | None:
    """Say why results cannot be a baseline: an ERROR, or a number that is not finite."""
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
        cases[case.id] = _stored(case, measured)
    if changes:
        used = {case["sums"] for case in cases.values()}
        arrays = dict(old["arrays"]) | dict(_flat(measured.tables))
        arrays = {name: a for name, a in arrays.items() if name.rpartition("/")[0] in used}
        datasets = {data["fingerprint"]: data for data in old["datasets"]}
        datasets |= {data.fingerprint: asdict(data) for data in measured.datasets}
        _write(path, measured, Content(cases, list(datasets.values()), arrays), old)
    return changes


def read_baseline(path: Path) -> dict[str, Any]:
    """Return a baseline's content, with its per-sequence sums under ``arrays``.

    Its checksums are verified; that its parts are what they should be is for
    :func:`load_baseline`.

    Raises:
        StoreError: where it is damaged, altered, or of another schema version.
    """
    try:
        content = loads(path.read_text(encoding="utf-8"))
        version = content["schema_version"]
        if BASELINE.upgraded({"schema_version": version}) is None:
            reads = " and ".join(map(str, (*BASELINE.upgrades, BASELINE.version)))
            raise StoreError(
                f"{path}: schema_version {version}, this saebench reads {reads}; measure it again: "
                "--sae-update-baselines"
            )
        same_cases = content["cases_sha256"] == _sha256(content["cases"])
        # Version 1 had neither a date nor a checksum of the SAE, the model and the data.
        same_head = version == 1 or content["head_sha256"] == _head_sha256(content)
        data = (path.parent / Path(content["arrays"]["file"]).name).read_bytes()
        same_sums = content["arrays"]["sha256"] == hashlib.sha256(data).hexdigest()
    except OSError as error:
        raise StoreError(f"{error.filename or path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"{path}: no saebench baseline ({error!r}); measure it again") from error
    if not same_cases or not isinstance(content["cases"], dict):
        raise StoreError(f"{path}: its numbers were edited by hand; measure it again")
    if not same_head:
        raise StoreError(f"{path}: its SAE, model or data were edited by hand; measure it again")
    if not same_sums:
        raise StoreError(f"{path}: its per-sequence sums were altered; measure it again")
    return {"stored": ""} | content | {"arrays": _arrays(path, data)}


def load_baseline(path: Path) -> StoredBaseline:
    """Return a baseline's validated record and its per-sequence sums.

    Raises:
        StoreError: where it is damaged, altered, of another schema version, or malformed, naming
            the file and the place in it.
    """
    content = read_baseline(path)
    arrays = content.pop("arrays")
    record = record_of_content(BASELINE, content, where=str(path), strict=True)
    lengths: dict[str, int] = {}
    for name, array in arrays.items():
        table, _, channel = name.rpartition("/")
        if array.ndim != 1 or array.dtype.kind not in "fiu":
            raise StoreError(f"{path}: its sums {channel!r} are no list of numbers")
        if lengths.setdefault(table, len(array)) != len(array):
            raise StoreError(f"{path}: its sums {channel!r} are of another number of sequences")
    return StoredBaseline(record, arrays)


def _arrays(path: Path, data: bytes) -> dict[str, np.ndarray]:
    try:
        _check_sizes(data)
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:
        # Of damaged bytes numpy, zipfile and zlib raise errors of many kinds.
        raise StoreError(f"{path}: its per-sequence sums are no npz ({error!r})") from error


def _check_sizes(data: bytes) -> None:
    """Refuse sums that unpack to more than any run's, before memory is allocated for them.

    Raises:
        ValueError: naming the array.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member in archive.infolist():
            with archive.open(member) as file:
                read = _HEADERS[np.lib.format.read_magic(file)]
                shape, _, kind = getattr(np.lib.format, read)(file)
                size = prod(shape) * kind.itemsize
                if size != member.file_size - file.tell() or size > LARGEST_ARRAY_BYTES:
                    raise ValueError(f"{member.filename}: {size} bytes by its header")


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _head_sha256(content: Mapping[str, Any]) -> str:
    return _sha256({name: content[name] for name in HEAD})


def _write(path: Path, measured: Measured, parts: Content, old: Mapping[str, Any]) -> None:
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
    new = json.loads(json.dumps(head | {"cases": parts.cases}))
    if all(old.get(n) == value for n, value in new.items() if n != "stored") and old["stored"]:
        head["stored"] = old["stored"]  # the same measurement is no newer
    content = {
        "schema_version": BASELINE.version,
        **head,
        "head_sha256": _head_sha256(json.loads(json.dumps(head))),
        "cases": dict(sorted(parts.cases.items())),
        "cases_sha256": _sha256(parts.cases),
        "arrays": {"file": sums.name, "sha256": digest},
    }
    text = json.dumps(content, allow_nan=False, indent=1, ensure_ascii=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_files({sums: data, path: text.encode(errors=HALVES)})
        for stale in path.parent.glob(f"{path.stem}.*.npz"):
            if stale != sums:
                stale.unlink()
    except OSError as error:
        raise NotWritten(f"{path}: cannot be written: {error.strerror}") from error


def _stored(case: CaseResult, measured: Measured) -> dict[str, Any]:
    """Return a case as the file has it: a :class:`saebench.records.baseline.StoredCase`."""
    noise = measured.noise.get(case.id, {})
    metrics = {
        metric.name: {
            "version": metric.version,
            "value": metric.value,
            "ci": [metric.ci.low, metric.ci.high] if metric.ci else None,
            "unit": metric.unit,
            "sequences": metric.n.sequences,
        }
        | ({"noise": noise[metric.name]} if metric.name in noise else {})
        for metric in case.metrics
    }
    return {
        "property": case.property,
        "params": case.params,
        "fingerprint": case.fingerprint,
        "verdict": case.verdict.value,
        "metrics": metrics,
        "sums": measured.table_of.get(case.id),
    }


def _changes(case: CaseResult, stored: dict[str, Any] | None) -> Iterator[Change]:
    before = stored["metrics"] if stored else {}
    for metric in case.metrics:
        old = before.get(metric.name, {}).get("value")
        yield Change(case.id, metric.name, old, metric.value)


def _flat(tables: Tables) -> Iterator[tuple[str, np.ndarray]]:
    for key, table in tables.items():
        for channel, values in table.items():
            yield f"{key}/{channel}", values
