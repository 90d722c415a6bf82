"""Files and directories replaced in one step: a crash leaves the old or the new one, never half."""

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from saebench.errors import NotWritten


def replace_file(path: Path, data: bytes) -> None:
    """Replace a file in one step, once the new one is on disk.

    Raises:
        OSError: where it cannot be written; an older file is left as it was.
    """
    replace_files({path: data})


def replace_files(contents: Mapping[Path, bytes]) -> None:
    """Replace files that belong together, once all new ones are on disk.

    A full disk is noticed before the first is replaced. Each is replaced in one step, in this
    order; a crash between two leaves the first new and the second old.

    Raises:
        OSError: where one cannot be written; older files are left as they were.
    """
    temporaries = {path: path.with_name(f".{path.name}.{os.getpid()}") for path in contents}
    try:
        for path, temporary in temporaries.items():
            _write_through(temporary, contents[path])
        for path, temporary in temporaries.items():
            temporary.replace(path)
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)


def _write_through(path: Path, data: bytes) -> None:
    """Write a file, and wait until it is on disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_file(path: Path, data: bytes) -> None:
    """Write a file in one step, and create the directories above it.

    Raises:
        NotWritten: where it cannot be written; an older file is left as it was.
    """
    write_files({path: data})


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write files that belong together, all or none, and create the directories above them.

    Raises:
        NotWritten: where one cannot be written; older files are left as they were.
    """
    try:
        for path in contents:
            if path.is_dir():
                raise IsADirectoryError(21, "Is a directory", str(path))
            path.parent.mkdir(parents=True, exist_ok=True)
        replace_files(contents)
    except OSError as error:
        named = " and ".join(map(str, contents))
        raise NotWritten(f"{named}: cannot be written: {error.strerror}") from error


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Lock a directory, created where there is none, against other processes that update it.

    The directory itself is locked, so that no lock file is left; the lock ends with its process.

    Raises:
        NotWritten: where it cannot be created or locked.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError as error:
        raise NotWritten(f"{directory}: cannot be written: {error.strerror}") from error
    try:
        _lock(directory, descriptor)
        yield
    finally:
        os.close(descriptor)


def _lock(directory: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        raise NotWritten(f"{directory}: cannot be locked: {error.strerror}") from error


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Give an empty directory that is moved to the path once the context ends without an error.

    An older directory stays until then, and is put back where the new one cannot be moved. No
    system call swaps two directories: a crash between the two renames leaves both, the older as
    ``.NAME.PID.old``.

    Args:
        path: of the new directory.

    Raises:
        NotWritten: where it cannot be written.
    """
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staged.mkdir()
        try:
            yield staged
            _swap(staged, path)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    except OSError as error:
        raise NotWritten(f"{path}: cannot be written: {error.strerror or error}") from error


def _swap(staged: Path, path: Path) -> None:
    """Move a directory to a path where another one may be."""
    for file in staged.rglob("*"):
        if file.is_file():
            with file.open("rb") as written:
                os.fsync(written.fileno())
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    if path.is_dir() and not path.is_symlink():
        path.rename(old)
    elif path.exists() or path.is_symlink():
        path.unlink()
    try:
        staged.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)
