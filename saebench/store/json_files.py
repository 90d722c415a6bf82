"""The JSON files of records: strict JSON, of a schema version, replaced in one step.

Each kind of file is declared next to its record, as a :class:`saebench.records.schema.Schema`.
"""

import csv
import io
import json
import math
import os
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from saebench.errors import OptionError, StoreError
from saebench.records.repair import REPAIR, RepairRecord
from saebench.records.run import RESULT, Run
from saebench.records.schema import Schema
from saebench.records.sweep import SWEEP, SweepRecord
from saebench.records.training import TRAINING, TrainingRecord
from saebench.store.atomic import write_file

T = TypeVar("T")
HALVES = "backslashreplace"
"""How halves of surrogate pairs are encoded: what this writes for them is JSON's own escape."""


def loads(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: for anything that is not JSON, also for NaN, Infinity and numbers as large.

    Example:
        >>> loads('{"a": 1}')
        {'a': 1}
    """
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _finite(number: str) -> float:
    value = float(number)
    return value if math.isfinite(value) else _refuse(number)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def read_json(path: Path) -> Any:
    """Return the value of a JSON file.

    Raises:
        StoreError: where it cannot be read, or is no JSON.
    """
    return _loaded(_text_of(path), where=str(path))


def read_record(schema: Schema[T], path: Path) -> T:
    """Read a record's file, of the newest schema version or an older one.

    Raises:
        StoreError: where it is missing, no such file, or of another schema version.
    """
    return parse_record(schema, _text_of(path, schema), where=str(path))


def parse_record(schema: Schema[T], text: str, *, where: str) -> T:
    """Return the record that a file's text holds, of the newest schema version or an older one.

    Raises:
        StoreError: where it is no such file, or of another schema version.
    """
    return record_of_content(schema, _loaded(text, schema, where=where), where=where)


def record_of_content(schema: Schema[T], content: Any, *, where: str, strict: bool = False) -> T:
    """Return the record of a file's content: its version checked, upgraded, and validated.

    Args:
        schema: the kind of file.
        content: the value of its JSON.
        where: the file, for errors.
        strict: whether to refuse what pydantic would convert, such as a number in a text.

    Raises:
        StoreError: where it is no such file, or of another schema version.
    """
    from pydantic import ValidationError

    try:
        upgraded = schema.upgraded(content) if isinstance(content, dict) else None
        if upgraded is None:
            raise _refusal(where, _other_version(schema, content), schema)
        record = _validated(schema, upgraded, strict=strict)
        schema.check(record)
        dump_record(record)  # pydantic makes infinity of "1e999"
        return record
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        text = f"no {schema.title}: {place}: {first['msg']}"
        raise _refusal(where, text, schema) from error
    except ValueError as error:
        raise _refusal(where, f"no {schema.title}: {error}", schema) from error
    except RecursionError as error:
        raise _refusal(where, "not valid JSON: nested too deeply", schema) from error


def _validated(schema: Schema[T], content: dict[str, Any], *, strict: bool) -> T:
    from pydantic import TypeAdapter

    adapter = TypeAdapter(schema.record)
    if not strict:
        return adapter.validate_python(content)
    # As JSON, since only there a list may be a tuple where nothing else is converted.
    return adapter.validate_json(json.dumps(content), strict=True)


def _other_version(schema: Schema[Any], content: Any) -> str:
    version = content.get("schema_version") if isinstance(content, dict) else None
    of = f" of a {schema.noun}" if schema.noun else ""
    return f"schema_version{of} is {version}, this saebench reads {schema.version}"


def _text_of(path: Path, schema: Schema[Any] | None = None) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise _refusal(path, error.strerror or str(error), schema) from error
    except UnicodeDecodeError as error:
        title = f"no {schema.title}" if schema else "not valid JSON"
        raise _refusal(path, f"{title}: not UTF-8", schema) from error


def _loaded(text: str, schema: Schema[Any] | None = None, *, where: str) -> Any:
    try:
        return loads(text)
    except ValueError as error:
        raise _refusal(where, f"not valid JSON: {error}", schema) from error


def _refusal(where: Path | str, text: str, schema: Schema[Any] | None) -> StoreError:
    """Return the error about a file, with how to make it again."""
    return StoreError(f"{where}: {text}{f'; {schema.hint}' if schema and schema.hint else ''}")


def write_record(record: Any, path: Path) -> None:
    """Write a record's JSON file, replacing an older one in one step.

    Raises:
        StoreError: where it cannot be written; an older file is left as it was.
        ValueError: for NaN or infinity, which JSON does not have.
    """
    write_file(path, record_bytes(record))


def record_bytes(record: Any) -> bytes:
    """Return the content of a record's JSON file.

    Raises:
        ValueError: for NaN or infinity, which JSON does not have.
    """
    return (dump_record(record) + "\n").encode(errors=HALVES)


def dump_record(record: Any) -> str:
    """Return a record as strict JSON.

    Raises:
        ValueError: for NaN or infinity, which JSON does not have.
    """
    return json.dumps(content_of(record), allow_nan=False, indent=1, ensure_ascii=False)


def content_of(record: Any) -> dict[str, Any]:
    """Return a record as its file holds it: dictionaries, lists, numbers and texts."""
    from pydantic import TypeAdapter

    return TypeAdapter(type(record)).dump_python(record, warnings=False)


def json_schema(schema: Schema[Any]) -> dict[str, Any]:
    """Return a file's JSON Schema."""
    from pydantic import TypeAdapter

    return TypeAdapter(schema.record).json_schema()


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


def read_run(path: Path) -> Run:
    """Read a result file; see :func:`read_record`."""
    return read_record(RESULT, path)


def parse_run(text: str, *, where: str) -> Run:
    """Return the run that a result file's text holds; see :func:`parse_record`."""
    return parse_record(RESULT, text, where=where)


def read_repair(path: Path) -> RepairRecord:
    """Read a repair's file; see :func:`read_record`."""
    return read_record(REPAIR, path)


def read_training(path: Path) -> TrainingRecord:
    """Read a training's file; see :func:`read_record`."""
    return read_record(TRAINING, path)


def read_sweep(path: Path) -> SweepRecord:
    """Read a sweep's file; see :func:`read_record`."""
    return read_record(SWEEP, path)


POINT = ("equal", "hook", "sparsity", "objective", "tokens", "learning_rate", "seconds",
         "converged")  # fmt: skip
"""The columns of a sweep's CSV file, before those of the metrics."""


def write_points(record: SweepRecord, path: Path) -> None:
    """Write a sweep's points as CSV: each metric with the ends of its interval.

    Raises:
        StoreError: where it cannot be written.
    """
    names = list(dict.fromkeys(name for point in record.points for name in point.metrics))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*POINT, *(f"{n}{end}" for n in names for end in ("", "_low", "_high"))))
    for point in record.points:
        metrics = [point.metrics.get(name) for name in names]
        numbers = [None if m is None else getattr(m, end) for m in metrics for end in
                   ("value", "low", "high")]  # fmt: skip
        writer.writerow((*(getattr(point, column) for column in POINT), *numbers))
    write_file(path, text.getvalue().encode())
