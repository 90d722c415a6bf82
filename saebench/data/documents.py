"""Documents: texts from files, saved data sets, the hub, or Python objects."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from saebench.data.data_sets import (
    Row,
    Rows,
    directory_and_split,
    directory_rows,
    named_rows,
)
from saebench.data.order import Indexed, Mapped, Ways, ordered
from saebench.data.random_access import (
    JsonLines,
    ParquetRows,
    TextLines,
)
from saebench.data.rows import MARK, jsonl_rows, parquet_rows, text_lines
from saebench.errors import DataError
from saebench.options import Order
from saebench.text import from_system, is_unicode

FIELD = "text"
OPTION = "--sae-dataset"
SHOWN = 40  # characters of a value that an error quotes
LONGEST_SPEC = 1024  # characters; no path and no name is as long, but a story is


def text_of_row(row: Any, where: str) -> str | None:
    """Return the text in a row of a data set; None where it is null.

    Args:
        row: the row's columns by name.
        where: the row's location, for messages.

    Raises:
        DataError: for a row without the column, or a value that is no text.
    """
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected a string under {FIELD!r}, found {described(row)}")
    if FIELD not in row:
        raise DataError(f"{where}: expected a string under {FIELD!r}, found {sorted(row)}")
    return checked_text(row[FIELD], where, expected=f"a string under {FIELD!r}")


def checked_text(value: Any, where: str, *, expected: str = "a string") -> str | None:
    """Return a text without a leading byte order mark; None for a null value.

    Args:
        value: the document.
        where: its location, for messages.
        expected: the expected value, for messages.

    Raises:
        DataError: for a value that is no text, or a text with a lone surrogate.
    """
    if is_null(value):
        return None
    if not isinstance(value, str):
        raise DataError(f"{where}: expected {expected}, found {described(value)}")
    if not is_unicode(value):
        raise DataError(f"{where}: half a character (a lone surrogate) in it: {value[:SHOWN]!r}")
    return str(value).removeprefix(MARK)


def is_null(value: Any) -> bool:
    """True for the null values of data frames and JSON: None, NaN, NaT, NA.

    Example:
        >>> is_null(None), is_null(float("nan")), is_null("")
        (True, True, False)
    """
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float) and value != value


def described(value: Any) -> str:
    """Describe a value in a few words, for error messages.

    Example:
        >>> described(3), described(["a"])
        ('a number (3)', "a list (['a'])")
    """
    if is_null(value):
        return "null"
    kinds = {bool: "true or false", int: "a number", float: "a number", list: "a list",
             tuple: "a list", dict: "an object", bytes: "bytes", str: "a string"}  # fmt: skip
    kind = next((n for k, n in kinds.items() if isinstance(value, k)), type(value).__name__)
    text = repr(value)
    return f"{kind} ({text[:SHOWN]}{'…' if len(text) > SHOWN else ''})"


@dataclass(frozen=True)
class Documents:
    """A source of documents, with its name in the result file.

    Attributes:
        name: of the file or data set.
        split: of the data set; None for a file.
        revision: of the data set.
        read: yields the documents from the start; None for one whose text is null.
        ways: the other ways to read them.
        order: the order in which ``read`` gives them, in words; None for their own.
        numbered: yields the documents as ``read`` does, each with its place in the source.
    """

    name: str
    split: str | None
    revision: str | None
    read: Callable[[], Iterator[str | None]]
    ways: Ways[str | None] = Ways()
    order: str | None = None
    numbered: Callable[[], Iterator[tuple[int, str | None]]] | None = None

    def in_order(self, order: Order, *, seed: int) -> "Documents":
        """Return the documents in the order in which a run takes them; once it is chosen it stays.

        Args:
            order: drawn by the seed from all of them, or their own.
            seed: the run's.

        Example:
            >>> documents = Documents("d", None, None, lambda: iter("abcd"))
            >>> list(documents.in_order(Order.SEEDED, seed=1))
            ['a', 'd', 'c', 'b']
        """
        if self.order is not None:
            return self
        taken = ordered(self.read, self.ways, order=order, seed=seed, kind="documents")
        return replace(
            self,
            read=lambda: (text for _, text in taken.read()),
            ways=Ways(),
            order=taken.order,
            numbered=taken.read,
        )

    def with_places(self) -> Iterator[tuple[int, str | None]]:
        """Read the documents from the start, each with its place in the source."""
        return self.numbered() if self.numbered else enumerate(self.read())

    def __iter__(self) -> Iterator[str]:
        """Read the documents from the start, without those whose text is null."""
        return (text for text in self.read() if text is not None)


def open_documents(spec: str, *, option: str = OPTION) -> Documents:
    """Return the documents that a SPEC names.

    Args:
        spec: a ``.jsonl`` (an object with ``text`` a line), ``.txt`` (a document a line, empty
            lines left out) or ``.parquet`` (column ``text``) file; a directory written by
            ``datasets.save_to_disk`` or holding such files, with ``:SPLIT`` where it has several;
            or the name of a data set in the Hugging Face cache or on the hub, with ``:SPLIT``
            where it is not ``train``, and ``:CONFIG:SPLIT`` where it has several configurations.
        option: what named it, for messages.

    Raises:
        DataError: for a missing file or data set, or another kind of file.
    """
    check_spec(spec, option=option)
    path = Path(os.path.expanduser(spec))
    if path.is_file():
        if path.suffix not in _READERS:
            raise DataError(
                f"{option} {spec}: {path.suffix or 'no suffix'} is not read; "
                f"expected one of {', '.join(_READERS)}, a saved data set, or a hub name"
            )
        if path.stat().st_size == 0:
            raise DataError(f"{option} {spec}: the file is empty")
        read, opened = _READERS[path.suffix]
        ways = Ways(indexed=partial(opened, path))
        return Documents(from_system(path.name), None, None, partial(read, path), ways)
    directory = directory_and_split(spec)
    if directory is not None:
        return _of_rows(directory_rows(directory[0], split=directory[1], option=option))
    if path.suffix in _READERS or spec.startswith((".", "/", "~")):
        raise DataError(f"{option} {spec}: no such file")
    if any(c.isspace() for c in spec):  # no data set's name has spaces
        raise _no_spec(spec, option)
    return _of_rows(named_rows(spec, option=option))


def _of_rows(rows: Rows) -> Documents:
    return Documents(
        rows.name, rows.split, rows.revision,
        lambda: map(_text, rows.read()), rows.ways.converted(_text),
    )  # fmt: skip


def check_spec(spec: str, *, option: str) -> None:
    """Refuse a text in place of the name of a file or data set.

    Args:
        spec: the option's value.
        option: the option, for messages.

    Raises:
        DataError: saying how texts are given.
    """
    if "\n" in spec or "\0" in spec or len(spec) > LONGEST_SPEC:
        raise _no_spec(spec, option)


def _no_spec(spec: str, option: str) -> DataError:
    start = spec if len(spec) <= SHOWN else spec[:SHOWN] + "…"
    return DataError(
        f"{option}: expected a file, a directory or a data set's name, found a text of {len(spec)} "
        f"characters ({start!r}), or a file that does not exist; write texts to a .jsonl or .txt "
        "file, or from Python give a list of them: [text]"
    )


def _text(row: Row) -> str | None:
    where, columns = row
    return text_of_row(columns, where)


def _lines(path: Path) -> Iterator[str | None]:
    lines = text_lines(path, option=OPTION)
    return (_line(path, each) for each in lines if each[1].strip())


def _line(path: Path, numbered: tuple[int, str]) -> str | None:
    number, line = numbered
    return checked_text(line.strip(), f"{path}, line {number}")


_Reader = Callable[[Path], Iterator[str | None]]
_Opener = Callable[[Path], Indexed[str | None]]
# For each kind of file what reads it from its start, and what opens it for reading at any place.
_READERS: dict[str, tuple[_Reader, _Opener]] = {
    ".jsonl": (
        lambda path: map(_text, jsonl_rows(path, option=OPTION)),
        lambda path: Mapped(JsonLines(path, option=OPTION), _text),
    ),
    ".txt": (
        _lines,
        lambda path: Mapped(TextLines(path, option=OPTION), partial(_line, path)),
    ),
    ".parquet": (
        lambda path: map(_text, parquet_rows(path, (FIELD,))),
        lambda path: Mapped(ParquetRows(path, (FIELD,)), _text),
    ),
}
