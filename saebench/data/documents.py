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
from saebench.errors import DataError
from saebench.shown import is_unicode

FIELD = "text"
OPTION = "--sae-dataset"


@dataclass(frozen=True)
class Documents:
    """A source of documents and what the result file calls it."""

    name: str
    split: str | None
    revision: str | None
    read: Callable[[], Iterator[str]]

    def __iter__(self) -> Iterator[str]:
        """Read the documents from the start."""
        return self.read()


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
        return Documents(path.name, None, None, lambda: reader(path))
    directory = directory_and_split(spec)
    if directory is not None:
        return _of_rows(directory_rows(directory[0], split=directory[1], option=OPTION))
    if path.suffix in _READERS or spec.startswith((".", "/", "~")):
        raise DataError(f"{OPTION} {spec}: no such file")
    return _of_rows(named_rows(spec, option=OPTION))


def _of_rows(rows: Rows) -> Documents:
    return Documents(rows.name, rows.split, rows.revision, lambda: _texts(rows.read()))


def _texts(rows: Iterator[tuple[str, Any]]) -> Iterator[str]:
    for where, row in rows:
        text = row.get(FIELD) if isinstance(row, dict) else None
        if not isinstance(text, str):
            found = sorted(row) if isinstance(row, dict) else type(row).__name__
            raise DataError(f"{where}: expected a string under {FIELD!r}, found {found}")
        if not is_unicode(text):
            raise DataError(f"{where}: half a character (a lone surrogate) in it: {text[:40]!r}")
        yield text


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                if line.strip():
                    yield line.strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{OPTION} {path}: not UTF-8 text: {error}") from error


_READERS: dict[str, Callable[[Path], Iterator[str]]] = {
    ".jsonl": lambda path: _texts(jsonl_rows(path)),
    ".txt": _lines,
    ".parquet": lambda path: _texts(parquet_rows(path, (FIELD,))),
}
