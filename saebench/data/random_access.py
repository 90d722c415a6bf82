"""Reading the rows of files, saved data sets and Python objects at any place."""

from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from saebench.data.order import Mapped
from saebench.data.rows import (
    MARK,
    check_encoding,
    not_utf8,
    open_parquet,
    parsed_line,
)
from saebench.errors import DataError

BATCH = 1024  # rows of a parquet file that are decoded together
ODD_SPACE = range(0x1C, 0x20)  # what str.strip removes and bytes.strip does not


class TextLines:
    """The lines of a text file that are not empty, by their byte offsets.

    The file is read once, to find them; 16 bytes of memory are needed for each line.

    Args:
        path: the file.
        option: the option that named it, for messages.
    """

    def __init__(self, path: Path, *, option: str) -> None:
        self._path = path
        self._option = option

    def __len__(self) -> int:
        """Return the number of lines that are not empty.

        Raises:
            DataError: for a file that cannot be read, or in another encoding.
        """
        return len(self._starts[0])

    def at(self, places: Sequence[int]) -> Iterator[tuple[int, str]]:
        """Yield the lines at some places, each with its number in the file, from 1.

        Raises:
            DataError: for a line that is no UTF-8 text.
        """
        offsets, numbers = self._starts
        with self._path.open("rb") as file:
            for place in places:
                file.seek(offsets[place])
                (line, *_) = _split(file.readline())
                yield numbers[place], self._decoded(line, numbers[place]).removeprefix(MARK)

    @cached_property
    def _starts(self) -> "tuple[array[int], array[int]]":
        """The byte offset of each line that is not empty, and its number."""
        offsets, numbers = array("q"), array("q")
        start = number = 0
        try:
            check_encoding(self._path, option=self._option)
            with self._path.open("rb") as file:
                for line in (line for raw in file for line in _split(raw)):
                    number += 1
                    if not _is_blank(line):
                        offsets.append(start)
                        numbers.append(number)
                    start += len(line)
        except OSError as error:
            raise DataError(f"{self._option} {self._path}: {error.strerror}") from error
        return offsets, numbers

    def _decoded(self, line: bytes, number: int) -> str:
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            where = f"{self._option} {self._path}, line {number}"
            raise not_utf8(error, self._path, where=where) from error


def _split(raw: bytes) -> list[bytes]:
    r"""Split what ends in a line feed where text mode does: at carriage returns too.

    Example:
        >>> _split(b"a\rb\r\n")
        [b'a\r', b'b\r\n']
    """
    return raw.splitlines(keepends=True) if b"\r" in raw else [raw]


def _is_blank(line: bytes) -> bool:
    rest = line.strip()
    if rest and (rest[0] >= 0x80 or rest[0] in ODD_SPACE):
        return not line.decode("utf-8", "replace").removeprefix(MARK).strip()
    return not rest


class JsonLines(Mapped[tuple[int, str], tuple[str, Any]]):
    """The values of a JSON-lines file, each with its location.

    Args:
        path: the file.
        option: the option that named it, for messages.
    """

    def __init__(self, path: Path, *, option: str) -> None:
        def parsed(numbered: tuple[int, str]) -> tuple[str, Any]:
            number, line = numbered
            return f"{path}, line {number}", parsed_line(line, path, number)

        super().__init__(TextLines(path, option=option), parsed)


class ParquetRows:
    """The rows of a parquet file, each with its location.

    Rows that are read together are found in one pass over the row groups that hold them, so that
    no more than a batch of the file is in memory.

    Args:
        path: the file.
        columns: the columns to read; by default all.

    Raises:
        DataError: for a file of another kind, or without a column.
    """

    def __init__(self, path: Path, columns: tuple[str, ...] = ()) -> None:
        self._path = path
        self._columns = list(columns) or None
        self._file = open_parquet(path, columns)
        metadata = self._file.metadata
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self._ends = np.cumsum([0, *sizes])

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self._ends[-1])

    def at(self, places: Sequence[int]) -> Iterator[tuple[str, Any]]:
        """Yield the rows at some places."""
        wanted = np.asarray(places, dtype=np.int64)
        found: dict[int, Any] = {}
        holding = np.searchsorted(self._ends, wanted, side="right") - 1
        for group in np.unique(holding).tolist():
            within = np.unique(wanted[holding == group]) - self._ends[group]
            found |= self._of_group(group, within)
        for place in wanted.tolist():
            yield f"{self._path}, row {place + 1}", found[place]

    def _of_group(self, group: int, within: np.ndarray) -> dict[int, Any]:
        """Return the rows at some places of a row group, by their places in the file."""
        rows: dict[int, Any] = {}
        start, first = 0, int(self._ends[group])
        for batch in self._file.iter_batches(BATCH, row_groups=[group], columns=self._columns):
            here = within[(within >= start) & (within < start + len(batch))]
            if len(here):
                chosen = batch.take(here - start).to_pylist()
                rows |= dict(zip((first + here).tolist(), chosen, strict=True))
            start += len(batch)
        return rows


class Elements:
    """The elements of a list, an array or a column, by number.

    Args:
        values: has a length, and gives an element for a number.
        where: returns the location of a place, for messages.
    """

    def __init__(self, values: Any, where: Callable[[int], str]) -> None:
        self._values = getattr(values, "iloc", values)  # pandas' own numbers may be labels
        self._count = len(values)
        self._where = where

    def __len__(self) -> int:
        """Return the number of elements."""
        return self._count

    def at(self, places: Sequence[int]) -> Iterator[tuple[str, Any]]:
        """Yield the elements at some places, each with its location.

        Raises:
            DataError: for one that cannot be read.
        """
        for place in places:
            where = self._where(place)
            try:
                element = self._values[place]
            except Exception as error:
                # The object is the user's and may raise anything.
                raise unreadable(where, error) from error
            yield where, element


def unreadable(where: str, error: Exception) -> DataError:
    """Return the error for an element that its source could not give."""
    return DataError(f"{where}: cannot be read: {type(error).__name__}: {error}")
