"""JSON files that hold a dataclass of one schema version: repairs, trainings, sweeps."""

from pathlib import Path
from typing import TypeVar

from saebench.errors import StoreError
from saebench.store.strict_json import loads

T = TypeVar("T")


def read_record(path: Path, kind: type[T], *, version: int, what: str) -> T:
    """Read a JSON file that holds a dataclass of a schema version.

    Raises:
        StoreError: where it is missing, no such file, or of another schema version.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        content = loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise StoreError(f"{path}: not valid JSON: {error}") from error
    found = content.get("schema_version") if isinstance(content, dict) else None
    if found != version or isinstance(found, bool):
        raise StoreError(
            f"{path}: schema_version of a {what} is {found}, this saebench reads {version}"
        )
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise StoreError(f"{path}: no saebench {what} file: {place}: {first['msg']}") from error
