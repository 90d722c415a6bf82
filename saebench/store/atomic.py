"""Files are replaced in one step: a crash leaves the old one or the new one, never half."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from saebench.errors import StoreError


def replace_file(path: Path, data: bytes) -> None:
    """Write a file whole, on disk before it takes the old one's place.

    Raises:
        OSError: where it cannot be written; an older file is left as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole, with the directories that it needs.

    Raises:
        StoreError: where it cannot be written; an older file is left as it was.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(21, "Is a directory")
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror}") from error


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a directory, made where there is none, against other processes that update it.

    The directory itself is locked, so that no lock file is left; a killed process lets go of it.

    Raises:
        StoreError: where it cannot be made or locked.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        held = os.open(directory, os.O_RDONLY)
    except OSError as error:
        raise StoreError(f"{directory}: cannot be written: {error.strerror}") from error
    try:
        _lock(directory, held)
        yield
    finally:
        os.close(held)


def _lock(directory: Path, held: int) -> None:
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
    except OSError as error:
        raise StoreError(f"{directory}: cannot be locked: {error.strerror}") from error


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Give an empty directory that takes the path's place once all within went well.

    Whatever is there before is kept until then, and is put back where the new one cannot take
    its place. No step swaps two directories: a crash between the two renames leaves both, the
    older as ``.NAME.PID.old``.

    Args:
        path: where the directory is to be.

    Raises:
        StoreError: where it cannot be written.
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
        raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error


def _swap(staged: Path, path: Path) -> None:
    """Put a directory where another one may be; a directory cannot be replaced in one step."""
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
