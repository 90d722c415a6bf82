"""Rows of text files, parquet files, saved data sets and the hub, with their locations."""

import codecs
import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saebench.errors import DataError
from saebench.text import first_line, from_system

MARK = "\ufeff"  # the byte order mark, which no tokenizer should see
SAMPLE = 4096  # bytes at a file's start
NULS = 0.2  # a share of zero bytes that text of one byte for each character never has
# By their first bytes; UTF-32 comes first, since its marks begin with UTF-16's.
ENCODINGS = {
    b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16",
}  # fmt: skip
PACKED = {
    b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"\x28\xb5\x2f\xfd": "zstandard", b"BZh": "bzip2",
    b"\xfd7zXZ": "xz", b"PAR1": "parquet (name it FILE.parquet)",
}  # fmt: skip


def text_lines(path: Path, *, option: str) -> Iterator[tuple[int, str]]:
    """Yield each line of a text file with its number, without byte order marks.

    A mark may begin a file and, where files were joined, later lines.

    Args:
        path: the file.
        option: the option that named it, for messages.

    Raises:
        DataError: for a file that cannot be read or is no UTF-8 text, naming its encoding.
    """
    number = 0
    try:
        check_encoding(path, option=option)
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                yield number, line.removeprefix(MARK)
    except OSError as error:
        raise DataError(f"{option} {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{option} {path}, after line {number}: expected UTF-8 text, found the byte "
            f"0x{error.object[error.start]:02x}, which is none ({error.reason}); if the file is "
            f"Windows-1252 or Latin-1, convert it: {_command(path, 'WINDOWS-1252')}"
        ) from error


def check_encoding(path: Path, *, option: str) -> None:
    """Refuse a file whose first bytes show that it is no UTF-8 text.

    Args:
        path: the file.
        option: the option that named it, for messages.

    Raises:
        DataError: naming the encoding or the format, and how to convert it.
    """
    with path.open("rb") as file:
        start = file.read(SAMPLE)
    packed = next((name for mark, name in PACKED.items() if start.startswith(mark)), None)
    if packed is not None and not _is_text(start):
        raise DataError(f"{option} {path}: expected UTF-8 text, found {packed}; unpack it first")
    encoding = encoding_of(start)
    if encoding is not None:
        raise DataError(
            f"{option} {path}: expected UTF-8 text, found {encoding}; convert it: "
            f"{_command(path, encoding)}"
        )


def encoding_of(start: bytes) -> str | None:
    r"""Return the encoding that a file's first bytes show; None where it may be UTF-8.

    In UTF-16 every second byte of Western text is zero, also without a mark.

    Example:
        >>> encoding_of("text".encode("utf-16-le")), encoding_of(b"\xef\xbb\xbftext")
        ('UTF-16LE', None)
    """
    marked = next((name for mark, name in ENCODINGS.items() if start.startswith(mark)), None)
    if marked is not None or start.count(0) < NULS * max(len(start), 1):
        return marked
    if start.count(0) > len(start) / 2 + 1:
        return "UTF-32LE" if start[:1] != b"\0" else "UTF-32BE"
    return "UTF-16LE" if start[1::2].count(0) >= start[::2].count(0) else "UTF-16BE"


def _is_text(start: bytes) -> bool:
    """True for bytes that may begin a UTF-8 text, which may begin with BZh or PAR1 too."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return False
    return b"\0" not in start


def _command(path: Path, encoding: str) -> str:
    return f"iconv -f {encoding} -t UTF-8 {path.name} > utf8{path.suffix}"


Row = dict[str, Any]
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
FOLDER_FILES = ("*.parquet", "*.jsonl", "*.arrow")


@dataclass(frozen=True)
class Rows:
    """A source of rows, with its name in the result file.

    Attributes:
        name: of the file, directory or data set.
        split: of the data set; None for a file.
        revision: of the data set.
        read: yields the rows from the start, each with its location for messages.
    """

    name: str
    split: str | None
    revision: str | None
    read: Callable[[], Iterator[tuple[str, Any]]]


def jsonl_rows(path: Path, *, option: str) -> Iterator[tuple[str, Any]]:
    """Yield the value on each line that is not empty, with ``FILE, line N``.

    Args:
        path: the file.
        option: the option that named it, for messages.

    Raises:
        DataError: for a line that is no JSON, or a file that is no UTF-8 text.
    """
    for number, line in text_lines(path, option=option):
        if line.strip():
            yield f"{path}, line {number}", _parsed(line, path, number)


def parquet_rows(path: Path, columns: tuple[str, ...] = ()) -> Iterator[tuple[str, Row]]:
    """Yield the rows of a parquet file, with ``FILE, row N``.

    Args:
        path: the file.
        columns: the columns to read; by default all.

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
    """Return a SPEC's directory and the split after it; None for another SPEC.

    Example:
        >>> directory_and_split("no/such/directory:test") is None
        True
    """
    directory = Path(os.path.expanduser(spec))
    if directory.is_dir():
        return directory, None
    path, _, split = spec.rpartition(":")
    before = Path(os.path.expanduser(path))
    return (before, split) if path and before.is_dir() else None


def directory_rows(path: Path, *, split: str | None, option: str) -> Rows:
    """Return the rows of a directory that ``datasets`` saved, or that has data files in it.

    Args:
        path: written by ``save_to_disk``, or with parquet or JSON-lines files.
        split: the split; by default ``test`` where there is one, else the first.
        option: the option that named it, for messages.

    Raises:
        DataError: for another kind of directory, or without the split.
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
        option: the option that named it, for messages.
        split: the split of a SPEC without one.

    Raises:
        DataError: for an unknown data set, configuration or split.
    """
    name, *rest = spec.split(":")
    if len(rest) > 2 or not all((name, *rest)):
        raise DataError(f"{option} {spec}: expected NAME, NAME:SPLIT or NAME:CONFIG:SPLIT")
    config = rest[0] if len(rest) == 2 else None
    return _loaded(name, config, rest[-1] if rest else split, option=option, name=name)


def _loaded(source: str, config: str | None, split: str | None, *, option: str, name: str) -> Rows:
    spec = ":".join(part for part in (source, config, split) if part)
    try:
        split, data = _opened(source, config, split)
    except Exception as error:
        # The library raises its own errors, fsspec's, the hub client's and the system's.
        raise DataError(
            f"{option} {spec}: no such file, and neither the Hugging Face cache nor the hub gives "
            f"data set {source!r} with split {split!r}: {first_line(error)}"
        ) from error
    version = getattr(getattr(data, "info", None), "version", None)
    revision = str(version) if version else None
    return Rows(name, split, revision, lambda: _numbered(data, spec, option))


def _opened(source: str, config: str | None, split: str | None) -> tuple[str, Any]:
    """Return the split, by default ``test`` or else the first, and its rows as a stream.

    A stream writes no data into the library's cache, but the library creates the cache directory
    and a lock in it; where these cannot be written, a temporary cache is used for local files.
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
            # Streaming may fail at any row, with any of these errors.
            raise DataError(
                f"{option} {about}: cannot be read beyond row {number}: {first_line(error)}"
            ) from error
        number += 1
        yield f"{about}, row {number}", row


def _parsed(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}, line {number}: not valid JSON: {error}") from error
    except RecursionError as error:
        raise DataError(f"{path}, line {number}: nested too deeply to be a row") from error
