"""Rows of data sets: from files, from what the ``datasets`` library saved, by name from the hub."""

import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saebench.data.text_files import text_lines
from saebench.errors import DataError
from saebench.shown import from_system

Row = dict[str, Any]
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
FOLDER_FILES = ("*.parquet", "*.jsonl", "*.arrow")


@dataclass(frozen=True)
class Rows:
    """A source of rows and what the result file calls it.

    Attributes:
        name: the file's, directory's or data set's.
        split: which part of it.
        revision: as the data set says.
        read: gives the rows from the start, each with its place for messages.
    """

    name: str
    split: str | None
    revision: str | None
    read: Callable[[], Iterator[tuple[str, Any]]]


def jsonl_rows(path: Path, *, option: str) -> Iterator[tuple[str, Any]]:
    """Give the value on each line that is not empty, with ``FILE, line N``.

    Args:
        path: the file.
        option: that named it, for messages.

    Raises:
        DataError: for a line that is no JSON, or a file that is no UTF-8 text.
    """
    for number, line in text_lines(path, option=option):
        if line.strip():
            yield f"{path}, line {number}", _parsed(line, path, number)


def parquet_rows(path: Path, columns: tuple[str, ...] = ()) -> Iterator[tuple[str, Row]]:
    """Give the rows of a parquet file, with ``FILE, row N``.

    Args:
        path: the file.
        columns: those that are needed; all where none is named.

    Raises:
        DataError: for a file of another kind, or without a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: no parquet file: {error}") from error
    for column in columns:
        if column not in file.schema_arrow.names:
            raise DataError(
                f"{path}: expected a column {column!r}, found {file.schema_arrow.names}"
            )
    number = 0
    for batch in file.iter_batches(columns=list(columns) or None):
        for row in batch.to_pylist():
            number += 1
            yield f"{path}, row {number}", row


def directory_and_split(spec: str) -> tuple[Path, str | None] | None:
    """Return the directory that a SPEC names, with the split behind it; None for another SPEC.

    Example:
        >>> directory_and_split("no/such/directory:test") is None
        True
    """
    whole = Path(os.path.expanduser(spec))
    if whole.is_dir():
        return whole, None
    path, _, split = spec.rpartition(":")
    before = Path(os.path.expanduser(path))
    return (before, split) if path and before.is_dir() else None


def directory_rows(path: Path, *, split: str | None, option: str) -> Rows:
    """Return the rows of a directory that ``datasets`` saved, or of one that holds data files.

    Args:
        path: written by ``save_to_disk``, or holding parquet or JSON-lines files.
        split: which part; ``test`` where there is one, else the first, where None.
        option: that named it, for messages.

    Raises:
        DataError: for a directory of another kind, or without the split.
    """
    from datasets import Dataset, DatasetDict, load_from_disk

    saved = any((path / name).exists() for name in ("dataset_info.json", "dataset_dict.json"))
    if not saved and any(next(path.rglob(pattern), None) for pattern in FOLDER_FILES):
        return _loaded(str(path), None, split, option=option, name=from_system(path.name))
    try:
        data = load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{option} {path}: not a directory written by datasets.save_to_disk, and no parquet or "
            f"JSON-lines file in it: {error}"
        ) from error
    if isinstance(data, DatasetDict):
        split = split or ("test" if "test" in data else str(next(iter(data), "")))
        if split not in data:
            raise DataError(
                f"{option} {path}: no split {split!r}; it has {', '.join(map(str, data))}"
            )
        data = data[split]
    assert isinstance(data, Dataset)
    return Rows(
        from_system(path.name), split, data._fingerprint, lambda: _numbered(data, f"{path}", option)
    )


def named_rows(spec: str, *, option: str, split: str = "train") -> Rows:
    """Return the rows of a data set by name, from the Hugging Face cache or the hub.

    Args:
        spec: ``NAME``, ``NAME:SPLIT`` or ``NAME:CONFIG:SPLIT``.
        option: that named it, for messages.
        split: where the SPEC names none.

    Raises:
        DataError: where there is no such data set, configuration or split.
    """
    name, *rest = spec.split(":")
    if len(rest) > 2 or not all((name, *rest)):
        raise DataError(f"{option} {spec}: expected NAME, NAME:SPLIT or NAME:CONFIG:SPLIT")
    config = rest[0] if len(rest) == 2 else None
    return _loaded(name, config, rest[-1] if rest else split, option=option, name=name)


def _loaded(source: str, config: str | None, split: str | None, *, option: str, name: str) -> Rows:
    asked = ":".join(part for part in (source, config, split) if part)
    try:
        split, data = _opened(source, config, split)
    except Exception as error:
        # The library raises its own errors, fsspec's, the hub client's and those of the system.
        raise DataError(
            f"{option} {asked}: no such file, and neither the Hugging Face cache nor the hub gives "
            f"data set {source!r} with split {split!r}: {_first_line(error)}"
        ) from error
    version = getattr(getattr(data, "info", None), "version", None)
    revision = str(version) if version else None
    return Rows(name, split, revision, lambda: _numbered(data, asked, option))


def _opened(source: str, config: str | None, split: str | None) -> tuple[str, Any]:
    """Return the split, ``test`` or else the first where None, and its rows as a stream.

    A stream leaves nothing in the library's cache, but the library makes its directory and a lock
    in it; where that cannot be written, a directory's files are read all the same.
    """
    try:
        return _streamed(source, config, split)
    except OSError as error:
        if error.errno not in UNWRITABLE or not Path(source).is_dir():
            raise
    with tempfile.TemporaryDirectory(prefix="saebench-") as cache:
        return _streamed(source, config, split, cache_dir=cache)


def _streamed(
    source: str, config: str | None, split: str | None, **options: Any
) -> tuple[str, Any]:
    from datasets import get_dataset_split_names, load_dataset

    if split is None:
        known = get_dataset_split_names(source, config, **options)
        split = "test" if "test" in known else known[0]
    return split, load_dataset(source, config, split=split, streaming=True, **options)


def _numbered(data: Any, about: str, option: str) -> Iterator[tuple[str, Row]]:
    rows = iter(data)
    number = 0
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:
            # Streaming may fail at any row, with any of the errors above.
            raise DataError(
                f"{option} {about}: cannot be read beyond row {number}: {_first_line(error)}"
            ) from error
        number += 1
        yield f"{about}, row {number}", row


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else repr(error)


def _parsed(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}, line {number}: not valid JSON: {error}") from error
    except RecursionError as error:
        raise DataError(f"{path}, line {number}: nested too deeply to be a row") from error
