"""Documents in Python objects: lists, generators, data frames, data sets and streams of them."""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from saebench.data.data_sets import Row, drawn_shards
from saebench.data.documents import FIELD, Documents, checked_text, described, text_of_row
from saebench.data.order import Indexed, Mapped, Rereadable, Ways
from saebench.data.random_access import Elements, unreadable
from saebench.errors import DataError

NAME = "in memory"


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
    if columns is not None and columns.count(FIELD) != 1:
        raise DataError(
            f"data: expected a column {FIELD!r}, found {columns}; give the texts alone: "
            f"data[{(columns or ['COLUMN'])[0]!r}]"
        )
    values = data if columns is None else _column(data)
    values = Rereadable(values) if isinstance(values, Iterator) else values
    read, stream = partial(_given_texts, values), partial(_given_stream, values)
    if _has_numbers(values):
        return Documents(NAME, None, None, read, Ways(indexed=partial(_given_indexed, values)))
    return Documents(NAME, None, None, read, Ways(stream=stream))


def _given_texts(values: Any) -> Iterator[str | None]:
    return map(_given_text, _given_rows(values, "data"))


def _given_indexed(values: Any) -> Indexed[str | None]:
    return Mapped(Elements(values, lambda place: f"data, row {place + 1}"), _given_text)


def _given_stream(values: Any, rng: np.random.Generator) -> Iterator[Callable[[], str | None]]:
    for name, shard in drawn_shards(values, rng):
        for row in _given_rows(shard, f"data{name}"):
            yield partial(_given_text, row)


def _given_rows(values: Any, about: str) -> Iterator[Row]:
    rows = iter(values)
    number = 0
    while True:
        number += 1
        where = f"{about}, row {number}"
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:
            # A stream's source may raise anything: the network's errors, the user's own.
            raise unreadable(where, error) from error
        yield where, row


def _given_text(row: Row) -> str | None:
    where, value = row
    value = value.as_py() if hasattr(value, "as_py") else value  # of an Arrow column
    if isinstance(value, Mapping):
        return text_of_row(dict(value), where)
    return checked_text(value, where, expected=f"a string, or a row with one under {FIELD!r}")


def _can_be_read(data: Any) -> bool:
    return isinstance(data, Iterable) or (_has_numbers(data) and not isinstance(data, type))


def _has_numbers(data: Any) -> bool:
    return hasattr(data, "__getitem__") and hasattr(data, "__len__")


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


def _column(data: Any) -> Any:
    """Return the texts of a data frame or a table, or the rows of a data set."""
    with_format: Callable[[None], Any] | None = getattr(data, "with_format", None)
    if with_format is not None:  # a data set's format may make tensors or frames of its rows
        return with_format(None)
    return data.column(FIELD) if callable(getattr(data, "column", None)) else data[FIELD]
