"""Documents from files, saved data sets and the hub, one string each, streamed in file order."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saebench.data.rows import (
    Rows,
    directory_and_split,
    directory_rows,
    jsonl_rows,
    named_rows,
    parquet_rows,
)
from saebench.data.text_files import text_lines
from saebench.data.texts import FIELD, SHOWN, checked_text, text_of_row
from saebench.errors import DataError
from saebench.shown import from_system

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
