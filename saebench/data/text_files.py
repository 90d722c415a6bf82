"""Lines of UTF-8 text files: byte order marks left out, files of another encoding named."""

import codecs
from collections.abc import Iterator
from pathlib import Path

from saebench.errors import DataError

MARK = "\ufeff"  # the byte order mark, which no tokenizer should see
LOOKED_AT = 4096  # bytes at a file's start
NULS = 0.2  # share of them that text of one byte a character never has
# By their first bytes; UTF-32's begin as UTF-16's do, so they come first.
ENCODINGS = {
    b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16",
}  # fmt: skip
PACKED = {
    b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"\x28\xb5\x2f\xfd": "zstandard", b"BZh": "bzip2",
    b"\xfd7zXZ": "xz", b"PAR1": "parquet (name it FILE.parquet)",
}  # fmt: skip


def text_lines(path: Path, *, option: str) -> Iterator[tuple[int, str]]:
    """Give each line of a text file with its number, without byte order marks.

    A mark stands at the start of a file, and of a later line where files were joined.

    Args:
        path: the file.
        option: that named it, for messages.

    Raises:
        DataError: for a file that cannot be read or is no UTF-8 text, naming what it is.
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
    """Refuse a file whose first bytes say that it is no UTF-8 text.

    Args:
        path: the file.
        option: that named it, for messages.

    Raises:
        DataError: naming the encoding or the format, and how to convert it.
    """
    with path.open("rb") as file:
        start = file.read(LOOKED_AT)
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

    Every second byte of Western text in UTF-16 is zero, also where no mark says so.

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
    """True for bytes that may begin a text in UTF-8: a story may begin with BZh or PAR1, too."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return False
    return b"\0" not in start


def _command(path: Path, encoding: str) -> str:
    return f"iconv -f {encoding} -t UTF-8 {path.name} > utf8{path.suffix}"
