"""Texts given as Python objects, from lists to streams, read no further than needed."""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from saebench.data.documents import Documents
from saebench.data.texts import FIELD, checked_text, described, text_of_row
from saebench.errors import DataError

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
        return Documents(NAME, None, None, lambda: _texts(iter(rows)))
    if columns.count(FIELD) != 1:
        raise DataError(
            f"data: expected a column {FIELD!r}, found {columns}; give the texts alone: "
            f"data[{(columns or ['COLUMN'])[0]!r}]"
        )
    return Documents(NAME, None, None, lambda: _texts(_column(data)))


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


def _texts(rows: Iterator[Any]) -> Iterator[str | None]:
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
