"""What may stand for a document: a string that can be written, or nothing at all."""

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
SHOWN = 40  # characters of a value that an error repeats


def text_of_row(row: Any, where: str) -> str | None:
    """Return the text in a row of a data set; None where the row says that it has none (null).

    Args:
        row: the row's columns by name.
        where: the row's place, for messages.

    Raises:
        DataError: for a row without the column, or a value that is no text.
    """
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected a string under {FIELD!r}, found {described(row)}")
    if FIELD not in row:
        raise DataError(f"{where}: expected a string under {FIELD!r}, found {sorted(row)}")
    return checked_text(row[FIELD], where, expected=f"a string under {FIELD!r}")


def checked_text(value: Any, where: str, *, expected: str = "a string") -> str | None:
    """Return a text without the byte order mark that it may begin with; None for no text.

    Args:
        value: what stands for the document.
        where: its place, for messages.
        expected: what was to stand there.

    Raises:
        DataError: for what is no text, or half a character.
    """
    if is_null(value):
        return None
    if not isinstance(value, str):
        raise DataError(f"{where}: expected {expected}, found {described(value)}")
    if not is_unicode(value):
        raise DataError(f"{where}: half a character (a lone surrogate) in it: {value[:SHOWN]!r}")
    return str(value).removeprefix(MARK)


def is_null(value: Any) -> bool:
    """True for what data frames and JSON have where there is nothing: None, NaN, NaT, NA.

    Example:
        >>> is_null(None), is_null(float("nan")), is_null("")
        (True, True, False)
    """
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float) and value != value


def described(value: Any) -> str:
    """Return a value in a few words, for an error that says what was found.

    Example:
        >>> described(3), described(["a"])
        ('a number (3)', "a list (['a'])")
    """
    if is_null(value):
        return "null"
    kinds = {bool: "true or false", int: "a number", float: "a number", list: "a list",
             tuple: "a list", dict: "an object", bytes: "bytes", str: "a string"}  # fmt: skip
    kind = next((n for k, n in kinds.items() if isinstance(value, k)), type(value).__name__)
    shown = repr(value)
    return f"{kind} ({shown[:SHOWN]}{'…' if len(shown) > SHOWN else ''})"


OPTION = "--sae-dataset"
LONGEST_SPEC = 1024  # characters: no path and no name is as long, a story is


@dataclass(frozen=True)
class Documents:
    """A source of documents and what the result file calls it.

    Attributes:
        name: the file's or data set's.
        split: which part of it.
        revision: as the data set says.
        read: gives the documents from the start; None for one whose text is null.
    """

    name: str
    split: str | None
    revision: str | None
    read: Callable[[], Iterator[str | None]]

    def __iter__(self) -> Iterator[str]:
        """Read the documents from the start, those without a text left out."""
        return (text for text in self.read() if text is not None)


def open_documents(spec: str) -> Documents:
    """Return the documents that a SPEC names.

    Args:
        spec: a ``.jsonl`` (an object with ``text`` a line), ``.txt`` (a document a line, empty
            lines left out) or ``.parquet`` (column ``text``) file; a directory written by
            ``datasets.save_to_disk`` or holding such files, with ``:SPLIT`` where it has several;
            or the name of a data set in the Hugging Face cache or on the hub, with ``:SPLIT``
            where it is not ``train``, and ``:CONFIG:SPLIT`` where it has several configurations.

    Raises:
        DataError: where there is no such file or data set, or it is of another kind.
    """
    check_spec(spec, option=OPTION)
    path = Path(os.path.expanduser(spec))
    if path.is_file():
        reader = _READERS.get(path.suffix)
        if reader is None:
            raise DataError(
                f"{OPTION} {spec}: {path.suffix or 'no suffix'} is not read; "
                f"expected one of {', '.join(_READERS)}, a saved data set, or a hub name"
            )
        if path.stat().st_size == 0:
            raise DataError(f"{OPTION} {spec}: the file is empty")
        return Documents(from_system(path.name), None, None, lambda: reader(path))
    directory = directory_and_split(spec)
    if directory is not None:
        return _of_rows(directory_rows(directory[0], split=directory[1], option=OPTION))
    if path.suffix in _READERS or spec.startswith((".", "/", "~")):
        raise DataError(f"{OPTION} {spec}: no such file")
    if any(c.isspace() for c in spec):  # which no data set's name has
        raise _no_spec(spec, OPTION)
    return _of_rows(named_rows(spec, option=OPTION))


def _of_rows(rows: Rows) -> Documents:
    return Documents(rows.name, rows.split, rows.revision, lambda: _texts(rows.read()))


def check_spec(spec: str, *, option: str) -> None:
    """Refuse a text where a file or a data set should be named.

    Args:
        spec: what was given.
        option: that it was given for.

    Raises:
        DataError: saying how texts are given.
    """
    if "\n" in spec or "\0" in spec or len(spec) > LONGEST_SPEC:
        raise _no_spec(spec, option)


def _no_spec(spec: str, option: str) -> DataError:
    shown = spec if len(spec) <= SHOWN else spec[:SHOWN] + "…"
    return DataError(
        f"{option}: expected a file, a directory or a data set's name, found a text of {len(spec)} "
        f"characters ({shown!r}), or a file that does not exist; write texts to a .jsonl or .txt "
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


NAME = "in memory"


def given_documents(data: Any) -> Documents:
    """Return the documents that an object holds.

    What can be read only once, a generator or a stream, is read only as far as documents are
    asked for, and remembered.

    Args:
        data: strings, or rows with a string under ``text``, in anything that can be gone through;
            a data frame, table or data set with a column ``text``.

    Raises:
        DataError: for what holds no texts, naming the column or split to give.
    """
    if isinstance(data, str | bytes) or not _can_be_read(data):
        raise DataError(f"data: expected texts or a SPEC, found {described(data)}")
    if isinstance(data, io.IOBase):  # whose lines may be JSON, or end in what no document has
        raise DataError("data: expected texts or a SPEC, found an open file; give its path")
    if isinstance(data, set | frozenset):
        raise DataError(
            "data: expected texts in an order, found a set, which has none; give a list"
        )
    if isinstance(data, Mapping):
        raise DataError(f"data: {_of_mapping(data)}")
    columns = _columns_of(data)
    if columns is None:
        rows = _Remembered(data) if isinstance(data, Iterator) else data
        return Documents(NAME, None, None, lambda: _given_texts(iter(rows)))
    if columns.count(FIELD) != 1:
        raise DataError(
            f"data: expected a column {FIELD!r}, found {columns}; give the texts alone: "
            f"data[{(columns or ['COLUMN'])[0]!r}]"
        )
    return Documents(NAME, None, None, lambda: _given_texts(_column(data)))


class _Remembered:
    """An iterator that can be read again from the start, and never beyond what is asked for."""

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
            # A stream fails with whatever its source raises: the network's errors, the user's own.
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
    """Say what to give instead of a mapping: one of its splits or columns."""
    names = [str(name) for name in data]
    if FIELD in names:
        return f"expected texts, found a mapping of columns {names}; give one: data[{FIELD!r}]"
    one = "test" if "test" in names else next(iter(names), "SPLIT")
    return f"expected texts, found a mapping of {names}; give one of them: data[{one!r}]"


def _columns_of(data: Any) -> list[str] | None:
    """Return the columns of a data frame, a table or a data set; None for other objects.

    They are told by what they can do, so that none of their libraries has to be there: to go
    through a pandas or polars frame gives the names of its columns, which are no documents.
    """
    for name in ("column_names", "columns"):
        found = getattr(data, name, None)
        if found is not None and not callable(found) and not isinstance(found, str | Mapping):
            return [str(column) for column in found]
    return None


def _column(data: Any) -> Iterator[Any]:
    """Give the texts of a data frame, a table or a data set, one after another."""
    plain: Callable[[None], Any] | None = getattr(data, "with_format", None)
    if plain is not None:  # a data set gives rows; those of a format may be tensors or frames
        return iter(plain(None))
    return iter(data.column(FIELD) if callable(getattr(data, "column", None)) else data[FIELD])
