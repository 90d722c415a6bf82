"""JSON files that hold a dataclass: what they share in reading, and what of one schema version."""

from pathlib import Path
from typing import Any, TypeVar

from saebench.errors import StoreError
from saebench.store.strict_json import loads

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
