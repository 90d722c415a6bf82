"""Rows of saved data sets, directories of data files and the hub, with their locations."""

import errno
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from saebench.data.order import Ways
from saebench.errors import DataError
from saebench.text import first_line, from_system

Row = tuple[str, Any]  # its location, for messages, and its columns by name
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
FOLDER_FILES = ("*.parquet", "*.jsonl", "*.arrow")


@dataclass(frozen=True)
class Rows:
    """A source of rows, with its name in the result file.

    Attributes:
        name: of the file, directory or data set.
        split: of the data set; None for a file.
        revision: of the data set.
        read: yields the rows from the start, each with its location for messages.
        ways: the other ways to read them.
    """

    name: str
    split: str | None
    revision: str | None
    read: Callable[[], Iterator[Row]]
    ways: Ways[Row] = Ways()


class DataSetRows:
    """The rows of a saved data set, at any place.

    Args:
        data: a ``datasets.Dataset``.
        about: its location, for messages.
        option: the option that named it, for messages.
    """

    def __init__(self, data: Any, about: str, option: str) -> None:
        self._data = data
        self._about = about
        self._option = option

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._data)

    def at(self, places: Sequence[int]) -> Iterator[Row]:
        """Yield the rows at some places, each with its location."""
        for place in places:
            try:
                row = self._data[place]
            except Exception as error:
                # A damaged file gives any of Arrow's errors and the system's.
                raise DataError(
                    f"{self._option} {self._about}, row {place + 1}: cannot be read: "
                    f"{first_line(error)}"
                ) from error
            yield f"{self._about}, row {place + 1}", row


def directory_and_split(spec: str) -> tuple[Path, str | None] | None:
    """Return a SPEC's directory and the split after it; None for another SPEC.

    Example:
        >>> directory_and_split("no/such/directory:test") is None
        True
    """
    directory = Path(os.path.expanduser(spec))
    if directory.is_dir():
        return directory, None
    path, _, split = spec.rpartition(":")
    before = Path(os.path.expanduser(path))
    return (before, split) if path and before.is_dir() else None


def directory_rows(path: Path, *, split: str | None, option: str) -> Rows:
    """Return the rows of a directory that ``datasets`` saved, or that has data files in it.

    Args:
        path: written by ``save_to_disk``, or with parquet or JSON-lines files.
        split: the split; by default ``test`` where there is one, else the first.
        option: the option that named it, for messages.

    Raises:
        DataError: for another kind of directory, or without the split.
    """
    from datasets import Dataset, DatasetDict, load_from_disk

    saved = any((path / name).exists() for name in ("dataset_info.json", "dataset_dict.json"))
    if not saved and any(next(path.rglob(pattern), None) for pattern in FOLDER_FILES):
        return _loaded(str(path), None, split, option=option, name=from_system(path.name))
    try:
        data = load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{option} {path}: not a directory written by datasets.save_to_disk, and no parquet or "
            f"JSON-lines file in it: {error}"
        ) from error
    if isinstance(data, DatasetDict):
        split = split or ("test" if "test" in data else str(next(iter(data), "")))
        if split not in data:
            raise DataError(
                f"{option} {path}: no split {split!r}; it has {', '.join(map(str, data))}"
            )
        data = data[split]
    assert isinstance(data, Dataset)
    return Rows(
        from_system(path.name), split, data._fingerprint,
        lambda: _numbered(data, f"{path}", option),
        Ways(indexed=lambda: DataSetRows(data, f"{path}", option)),
    )  # fmt: skip


def named_rows(spec: str, *, option: str, split: str = "train") -> Rows:
    """Return the rows of a data set by name, from the Hugging Face cache or the hub.

    Args:
        spec: ``NAME``, ``NAME:SPLIT`` or ``NAME:CONFIG:SPLIT``.
        option: the option that named it, for messages.
        split: the split of a SPEC without one.

    Raises:
        DataError: for an unknown data set, configuration or split.
    """
    name, *rest = spec.split(":")
    if len(rest) > 2 or not all((name, *rest)):
        raise DataError(f"{option} {spec}: expected NAME, NAME:SPLIT or NAME:CONFIG:SPLIT")
    config = rest[0] if len(rest) == 2 else None
    return _loaded(name, config, rest[-1] if rest else split, option=option, name=name)


def _loaded(source: str, config: str | None, split: str | None, *, option: str, name: str) -> Rows:
    spec = ":".join(part for part in (source, config, split) if part)
    try:
        split, data = _opened(source, config, split)
    except Exception as error:
        # The library raises its own errors, fsspec's, the hub client's and the system's.
        raise DataError(
            f"{option} {spec}: no such file, and neither the Hugging Face cache nor the hub gives "
            f"data set {source!r} with split {split!r}: {first_line(error)}"
        ) from error
    version = getattr(getattr(data, "info", None), "version", None)
    revision = str(version) if version else None
    ways = Ways(stream=partial(shuffled_shards, data, spec, option))
    return Rows(name, split, revision, partial(_numbered, data, spec, option), ways)


def _opened(source: str, config: str | None, split: str | None) -> tuple[str, Any]:
    """Return the split, by default ``test`` or else the first, and its rows as a stream.

    A stream writes no data into the library's cache, but the library creates the cache directory
    and a lock in it; where these cannot be written, a temporary cache is used for local files.
    """
    try:
        return _streamed(source, config, split)
    except OSError as error:
        if error.errno not in UNWRITABLE or not Path(source).is_dir():
            raise
    with tempfile.TemporaryDirectory(prefix="saebench-") as cache:
        return _streamed(source, config, split, cache_dir=cache)


def _streamed(
    source: str, config: str | None, split: str | None, **options: Any
) -> tuple[str, Any]:
    from datasets import get_dataset_split_names, load_dataset

    if split is None:
        known = get_dataset_split_names(source, config, **options)
        split = "test" if "test" in known else known[0]
    return split, load_dataset(source, config, split=split, streaming=True, **options)


def _numbered(data: Any, about: str, option: str) -> Iterator[Row]:
    rows = iter(data)
    number = 0
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:
            # Streaming may fail at any row, with any of these errors.
            raise DataError(
                f"{option} {about}: cannot be read beyond row {number}: {first_line(error)}"
            ) from error
        number += 1
        yield f"{about}, row {number}", row


def shuffled_shards(
    data: Any, about: str, option: str, rng: np.random.Generator
) -> Iterator[Callable[[], Row]]:
    """Yield functions that return the rows of a stream, its shards in a drawn order.

    Args:
        data: a ``datasets.IterableDataset``.
        about: its location, for messages.
        option: the option that named it, for messages.
        rng: draws the order of the shards.

    Raises:
        DataError: where the stream ends with an error.
    """
    for name, shard in drawn_shards(data, rng):
        for row in _numbered(shard, about + name, option):
            yield partial(tuple, row)


def drawn_shards(data: Any, rng: np.random.Generator) -> Iterator[tuple[str, Any]]:
    """Yield the shards of a stream in a drawn order, each with its name for messages.

    Args:
        data: a ``datasets.IterableDataset``, or any iterable, which is one shard without a name.
        rng: draws the order.
    """
    count = int(getattr(data, "num_shards", 1))
    if count < 2:
        yield "", data
        return
    for index in rng.permutation(count).tolist():
        yield f", shard {index + 1}", data.shard(num_shards=count, index=index)
