"""Rows of text files and parquet files, with their locations."""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from saebench.errors import DataError

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
        raise not_utf8(error, path, where=f"{option} {path}, after line {number}") from error


def not_utf8(error: UnicodeDecodeError, path: Path, *, where: str) -> DataError:
    """Return the error for a file that is not UTF-8 throughout.

    Args:
        error: what decoding it gave.
        path: the file.
        where: the place in it, for the message.
    """
    return DataError(
        f"{where}: expected UTF-8 text, found the byte "
        f"0x{error.object[error.start]:02x}, which is none ({error.reason}); if the file is "
        f"Windows-1252 or Latin-1, convert it: {_command(path, 'WINDOWS-1252')}"
    )


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
            yield f"{path}, line {number}", parsed_line(line, path, number)


def parquet_rows(path: Path, columns: tuple[str, ...] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a parquet file, with ``FILE, row N``.

    Args:
        path: the file.
        columns: the columns to read; by default all.

    Raises:
        DataError: for a file of another kind, or without a column.
    """
    number = 0
    for batch in open_parquet(path, columns).iter_batches(columns=list(columns) or None):
        for row in batch.to_pylist():
            number += 1
            yield f"{path}, row {number}", row


def open_parquet(path: Path, columns: tuple[str, ...] = ()) -> Any:
    """Return a ``pyarrow.parquet.ParquetFile`` that has some columns.

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
    return file


def parsed_line(line: str, path: Path, number: int) -> Any:
    """Return the value on a line of a JSON-lines file.

    Raises:
        DataError: for a line that is no JSON, naming its number.
    """
    try:
        return json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}, line {number}: not valid JSON: {error}") from error
    except RecursionError as error:
        raise DataError(f"{path}, line {number}: nested too deeply to be a row") from error
