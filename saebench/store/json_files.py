"""JSON as its standard has it: no NaN, no infinity, no nesting that breaks the reader."""

import csv
import io
import json
import math
import os
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from saebench.errors import OptionError, StoreError
from saebench.records.repair import REPAIR_SCHEMA_VERSION, RepairRecord
from saebench.records.run import SCHEMA_VERSION, Run
from saebench.records.sweep import SWEEP_SCHEMA_VERSION, SweepRecord
from saebench.records.training import TRAINING_SCHEMA_VERSION, TrainingRecord
from saebench.store.atomic import write_file

HALVES = "backslashreplace"
"""How halves of surrogate pairs are encoded: what this writes for them is JSON's own escape."""


def loads(text: str) -> Any:
    """Return the value that a JSON text holds.

    Raises:
        ValueError: for anything that is not JSON, NaN, Infinity and what is as large included.

    Example:
        >>> loads('{"a": 1}')
        {'a': 1}
    """
    try:
        return json.loads(text, parse_constant=_refused, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _finite(number: str) -> float:
    value = float(number)
    return value if math.isfinite(value) else _refused(number)


def _refused(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


T = TypeVar("T")


def read_record(path: Path, kind: type[T], *, version: int, what: str) -> T:
    """Read a JSON file that holds a dataclass of a schema version.

    Raises:
        StoreError: where it is missing, no such file, or of another schema version.
    """
    content = read_json(path)
    found = content.get("schema_version") if isinstance(content, dict) else None
    if found != version or isinstance(found, bool):
        raise StoreError(
            f"{path}: schema_version of a {what} is {found}, this saebench reads {version}"
        )
    return validated(kind, content, told=f"{path}: no saebench {what} file")


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        StoreError: where it cannot be read, or is no JSON.
    """
    try:
        return loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise StoreError(f"{path}: not valid JSON: {error}") from error


def validated(kind: type[T], content: Any, *, told: str) -> T:
    """Return a file's content as the dataclass that it should be.

    Args:
        kind: the dataclass.
        content: what the file holds.
        told: the error's beginning; the first place that is wrong follows.

    Raises:
        StoreError: where it is something else.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise StoreError(f"{told}: {place}: {first['msg']}") from error


READ_VERSIONS = (1, 2, 3, SCHEMA_VERSION)


def write_run(run: Run, path: Path) -> None:
    """Write a run, replacing an older file in one step.

    Raises:
        StoreError: where it cannot be written; an older file is left as it was.
    """
    write_file(path, (dump_run(run) + "\n").encode(errors=HALVES))


def check_writable(path: Path, *, option: str) -> None:
    """Refuse, before anything is measured, a place where the result cannot be written.

    Raises:
        OptionError: naming the place; nothing is left behind.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(21, "is a directory")
        probe = path.with_name(f".{path.name}.{os.getpid()}")
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OptionError(f"{option} {path}: cannot be written: {error.strerror}") from error


def dump_run(run: Run) -> str:
    """Return a run as strict JSON.

    Raises:
        ValueError: for NaN or infinity, which JSON does not have.
    """
    return json.dumps(run.to_dict(), allow_nan=False, indent=1, ensure_ascii=False)


def read_run(path: Path) -> Run:
    """Read a result file.

    Raises:
        StoreError: where it is missing, no result file, or of another schema version.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise StoreError(f"{path}: no saebench result file: not UTF-8") from error
    return parse_run(text, where=str(path))


def parse_run(text: str, *, where: str) -> Run:
    """Return the run that a result file's text holds.

    Raises:
        StoreError: where it is no result file, or of another schema version.
    """
    try:
        content = loads(text)
    except ValueError as error:
        raise StoreError(f"{where}: not valid JSON: {error}") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version not in READ_VERSIONS or isinstance(version, bool):
        raise StoreError(
            f"{where}: schema_version is {version}, this saebench reads {SCHEMA_VERSION}"
        )
    # Version 2 added what a case's numbers rest on; of version 1 that stays unknown.
    current = content | {"schema_version": SCHEMA_VERSION}
    run = validated(Run, current, told=f"{where}: no saebench result file")
    _check_names(run, where)
    try:
        datetime.fromisoformat(run.run.started)
        dump_run(run)  # pydantic makes infinity of "1e999"
    except ValueError as error:
        raise StoreError(f"{where}: no saebench result file: {error}") from error
    return run


def _check_names(run: Run, where: str) -> None:
    """Refuse two SAEs of one id, and cases of SAEs that the run does not have."""
    known = {sae.id for sae in run.saes}
    if len(known) < len(run.saes):
        raise StoreError(f"{where}: no saebench result file: two SAEs of one id")
    for case in run.cases:
        pair = (case.params.get("first"), case.params.get("second"))
        own = pair if "second" in case.params else (case.sae,)
        if not all(isinstance(sae, str) and sae in known for sae in own):
            raise StoreError(f"{where}: no saebench result file: {case.id!r} is of no SAE in it")


def result_schema() -> dict[str, Any]:
    """Return the result file's JSON Schema."""
    from pydantic import TypeAdapter

    return TypeAdapter(Run).json_schema()


def write_repair(record: RepairRecord, path: Path) -> None:
    """Write a record, replacing an older file in one step.

    Raises:
        StoreError: where it cannot be written; an older file is left as it was.
    """
    write_file(path, (dump_repair(record) + "\n").encode(errors=HALVES))


def dump_repair(record: RepairRecord) -> str:
    """Return a record as strict JSON.

    Raises:
        ValueError: for NaN or infinity, which JSON does not have.
    """
    return json.dumps(record.to_dict(), allow_nan=False, indent=1, ensure_ascii=False)


def read_repair(path: Path) -> RepairRecord:
    """Read a repair's file.

    Raises:
        StoreError: where it is missing, no such file, or of another schema version.
    """
    found = read_record(path, RepairRecord, version=REPAIR_SCHEMA_VERSION, what="repair")
    try:
        dump_repair(found)  # pydantic makes infinity of "1e999"
        found.row("perplexity_gap")
    except (ValueError, KeyError) as error:
        raise StoreError(f"{path}: no saebench repair file: {error}") from error
    return found


def repair_schema() -> dict[str, Any]:
    """Return the JSON Schema of a repair's file."""
    from pydantic import TypeAdapter

    return TypeAdapter(RepairRecord).json_schema()


PLACE = ("equal", "hook", "sparsity", "objective", "tokens", "learning_rate", "seconds",
         "converged")  # fmt: skip


def write_sweep(record: SweepRecord, path: Path) -> None:
    """Write a record, replacing an older file in one step.

    Raises:
        StoreError: where it cannot be written; an older file is left as it was.
    """
    write_file(path, (json.dumps(record.to_dict(), allow_nan=False, indent=1) + "\n").encode())


def read_sweep(path: Path) -> SweepRecord:
    """Read a sweep's file.

    Raises:
        StoreError: where it is missing, no such file, or of another schema version.
    """
    return read_record(path, SweepRecord, version=SWEEP_SCHEMA_VERSION, what="training sweep")


def write_points(record: SweepRecord, path: Path) -> None:
    """Write the points as CSV: each metric with the ends of its interval.

    Raises:
        StoreError: where it cannot be written.
    """
    names = list(dict.fromkeys(name for point in record.points for name in point.metrics))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*PLACE, *(f"{n}{end}" for n in names for end in ("", "_low", "_high"))))
    for point in record.points:
        found = [point.metrics.get(name) for name in names]
        numbers = [None if f is None else getattr(f, e) for f in found for e in
                   ("value", "low", "high")]  # fmt: skip
        writer.writerow((*(getattr(point, p) for p in PLACE), *numbers))
    write_file(path, text.getvalue().encode())


def write_training(record: TrainingRecord, path: Path) -> None:
    """Write a record, replacing an older file in one step.

    Raises:
        StoreError: where it cannot be written; an older file is left as it was.
    """
    write_file(path, (json.dumps(record.to_dict(), allow_nan=False, indent=1) + "\n").encode())


def read_training(path: Path) -> TrainingRecord:
    """Read a training's file.

    Raises:
        StoreError: where it is missing, no such file, or of another schema version.
    """
    return read_record(path, TrainingRecord, version=TRAINING_SCHEMA_VERSION, what="training")
