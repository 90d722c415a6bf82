"""Documents: texts from files, saved data sets, the hub, or Python objects."""

import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saebench.data.rows import (
    MARK,
    Rows,
    directory_and_split,
    directory_rows,
    jsonl_rows,
    named_rows,
    parquet_rows,
    text_lines,
)
from saebench.errors import DataError
from saebench.text import from_system, is_unicode

FIELD = "text"
OPTION = "--sae-dataset"
NAME = "in memory"
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
    """

    name: str
    split: str | None
    revision: str | None
    read: Callable[[], Iterator[str | None]]

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
        reader = _READERS.get(path.suffix)
        if reader is None:
            raise DataError(
                f"{option} {spec}: {path.suffix or 'no suffix'} is not read; "
                f"expected one of {', '.join(_READERS)}, a saved data set, or a hub name"
            )
        if path.stat().st_size == 0:
            raise DataError(f"{option} {spec}: the file is empty")
        return Documents(from_system(path.name), None, None, lambda: reader(path))
    directory = directory_and_split(spec)
    if directory is not None:
        return _of_rows(directory_rows(directory[0], split=directory[1], option=option))
    if path.suffix in _READERS or spec.startswith((".", "/", "~")):
        raise DataError(f"{option} {spec}: no such file")
    if any(c.isspace() for c in spec):  # no data set's name has spaces
        raise _no_spec(spec, option)
    return _of_rows(named_rows(spec, option=option))


def _of_rows(rows: Rows) -> Documents:
    return Documents(rows.name, rows.split, rows.revision, lambda: _texts(rows.read()))


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


def _texts(rows: Iterator[tuple[str, Any]]) -> Iterator[str | None]:
    return (text_of_row(row, where) for where, row in rows)


def _lines(path: Path) -> Iterator[str | None]:
    for number, line in text_lines(path, option=OPTION):
        if line.strip():
            yield checked_text(line.strip(), f"{path}, line {number}")


_READERS: dict[str, Callable[[Path], Iterator[str | None]]] = {
    ".jsonl": lambda path: _texts(jsonl_rows(path, option=OPTION)),
    ".txt": _lines,
    ".parquet": lambda path: _texts(parquet_rows(path, (FIELD,))),
}


def given_documents(data: Any) -> Documents:
    """Return the documents in a Python object.

    A generator or stream, which can be read only once, is read as far as documents are needed,
    and buffered.

    Args:
        data: an iterable of strings, or of rows with a string under ``text``; or a data frame,
            table or data set with a column ``text``.

    Raises:
        DataError: for an object without texts, naming the column or split to give.
    """
    if isinstance(data, str | bytes) or not _can_be_read(data):
        raise DataError(f"data: expected texts or a SPEC, found {described(data)}")
    if isinstance(data, io.IOBase):  # its lines may be JSON, and end in line breaks
        raise DataError("data: expected texts or a SPEC, found an open file; give its path")
    if isinstance(data, set | frozenset):
        raise DataError(
            "data: expected texts in an order, found a set, which has none; give a list"
        )
    if isinstance(data, Mapping):
        raise DataError(f"data: {_of_mapping(data)}")
    columns = _columns_of(data)
    if columns is None:
        rows = _Buffered(data) if isinstance(data, Iterator) else data
        return Documents(NAME, None, None, lambda: _given_texts(iter(rows)))
    if columns.count(FIELD) != 1:
        raise DataError(
            f"data: expected a column {FIELD!r}, found {columns}; give the texts alone: "
            f"data[{(columns or ['COLUMN'])[0]!r}]"
        )
    return Documents(NAME, None, None, lambda: _given_texts(_column(data)))


class _Buffered:
    """An iterator that can be read again from the start, and never further than needed."""

    def __init__(self, source: Iterator[Any]) -> None:
        self._source = source
        self._seen: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        at = 0
        while True:
            if at == len(self._seen):
                try:
                    self._seen.append(next(self._source))
                except StopIteration:
                    return
            yield self._seen[at]
            at += 1


def _given_texts(rows: Iterator[Any]) -> Iterator[str | None]:
    number = 0
    while True:
        number += 1
        where = f"data, row {number}"
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:
            # A stream's source may raise anything: the network's errors, the user's own.
            raise DataError(f"{where}: cannot be read: {type(error).__name__}: {error}") from error
        row = row.as_py() if hasattr(row, "as_py") else row  # an element of an Arrow column
        if isinstance(row, Mapping):
            yield text_of_row(dict(row), where)
        else:
            yield checked_text(row, where, expected=f"a string, or a row with one under {FIELD!r}")


def _can_be_read(data: Any) -> bool:
    by_number = hasattr(data, "__getitem__") and hasattr(data, "__len__")
    return isinstance(data, Iterable) or (by_number and not isinstance(data, type))


def _of_mapping(data: Mapping[Any, Any]) -> str:
    """Return what to give instead of a mapping: one of its splits or columns."""
    names = [str(name) for name in data]
    if FIELD in names:
        return f"expected texts, found a mapping of columns {names}; give one: data[{FIELD!r}]"
    one = "test" if "test" in names else next(iter(names), "SPLIT")
    return f"expected texts, found a mapping of {names}; give one of them: data[{one!r}]"


def _columns_of(data: Any) -> list[str] | None:
    """Return the columns of a data frame, a table or a data set; None for other objects.

    They are recognised by their attributes, so that their libraries need not be installed.
    Iterating over a pandas or polars frame would yield the names of its columns, not documents.
    """
    for name in ("column_names", "columns"):
        columns = getattr(data, name, None)
        if columns is not None and not callable(columns) and not isinstance(columns, str | Mapping):
            return [str(column) for column in columns]
    return None


def _column(data: Any) -> Iterator[Any]:
    """Yield the texts of a data frame, a table or a data set."""
    with_format: Callable[[None], Any] | None = getattr(data, "with_format", None)
    if with_format is not None:  # a data set's format may make tensors or frames of its rows
        return iter(with_format(None))
    return iter(data.column(FIELD) if callable(getattr(data, "column", None)) else data[FIELD])
