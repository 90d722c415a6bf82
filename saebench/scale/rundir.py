"""The run directory: checksummed shards and outcomes of cases, locked by one run at a time."""

import fcntl
import hashlib
import json
import os
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from saebench.errors import NotWritten, OptionError, StoreError
from saebench.store.atomic import write_file

FORMAT = 3
LOCK = "lock.json"
SHARDS = "shards"


class RunDirectory:
    """A directory of finished shards, each named by a hash of everything that determines its bits.

    Args:
        path: the directory; created if it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged: list[str] = []

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lock the directory; a second run gets an error that names the first.

        The lock of a killed run is released by the system.

        Raises:
            OptionError: if another run has locked it, or it cannot be written.
        """
        try:
            (self.path / SHARDS).mkdir(parents=True, exist_ok=True)
            file = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise OptionError(
                f"--sae-run-dir {self.path}: cannot be written: {error.strerror}; name a directory "
                "that can"
            ) from error
        try:
            self._lock(file)
            yield
        finally:
            os.close(file)

    def _lock(self, file: int) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OptionError(
                f"--sae-run-dir {self.path}: in use by {_owner(os.pread(file, 4096, 0))}; wait "
                "for it, or name another directory"
            ) from error
        owner = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": " ".join(["pytest", *sys.argv[1:]])[:500],
        }
        try:
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps(owner).encode(), 0)
        except OSError as error:
            raise OptionError(
                f"--sae-run-dir {self.path}: cannot be written: {error.strerror}"
            ) from error

    @property
    def is_empty(self) -> bool:
        """True if it has no shard yet."""
        return next((self.path / SHARDS).glob("*.shard"), None) is None

    def lies_there(self, key: str) -> bool:
        """True if there is a file for this key, intact or damaged: it is not opened."""
        return self.file(key).is_file()

    def has(self, key: str) -> bool:
        """True if there is an intact shard of this key."""
        return self.read(key) is not None

    def read(self, key: str) -> bytes | None:
        """Return a finished shard's bytes; None if it is missing or damaged."""
        path = self.file(key)
        try:
            head, data = _split(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{path}: cannot be read: {error.strerror}") from error
        if _is_intact(head, data, key):
            return data
        if path.name not in self.damaged:
            self.damaged.append(path.name)
        return None

    def write(self, key: str, data: bytes) -> None:
        """Write a finished shard atomically; it is on disk when this returns.

        Raises:
            StoreError: if it cannot be written; an earlier file of this key then stays.
        """
        head = {"saebench": "shard", "format": FORMAT, "key": key, "sha256": _sha256(data)}
        write_file(self.file(key), json.dumps(head).encode() + b"\n" + data)

    def discard(self, key: str) -> None:
        """Remove a shard, so that it is measured again.

        Raises:
            StoreError: if it cannot be removed.
        """
        try:
            self.file(key).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"{self.file(key)}: cannot be removed: {error.strerror}") from error

    def file(self, key: str) -> Path:
        """Return the path of a shard, whether it exists or not."""
        return self.path / SHARDS / f"{key}.shard"


def payload(path: Path) -> bytes:
    """Return the content of a shard's file, after its header line.

    Raises:
        StoreError: if its checksum is wrong, or it cannot be read.
    """
    try:
        head, data = _split(path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from error
    if not _is_intact(head, data, path.stem):
        raise StoreError(f"{path}: was altered during the run; the same command measures it again")
    return data


def _split(path: Path) -> tuple[bytes, bytes]:
    head, _, data = path.read_bytes().partition(b"\n")
    return head, data


def _is_intact(head: bytes, data: bytes, key: str) -> bool:
    try:
        header = json.loads(head)
    except ValueError:
        return False
    expected = {"saebench": "shard", "format": FORMAT, "key": key, "sha256": _sha256(data)}
    return header == expected


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _owner(data: bytes) -> str:
    """Describe the process that has the lock."""
    try:
        lock = json.loads(data)
        return f"process {lock['pid']} on {lock['host']} since {lock['since']} ({lock['command']})"
    except (ValueError, KeyError, TypeError):
        return "another run"


FILE = "outcomes.jsonl"


class Outcomes:
    """A file of the cases that failed, by the group of shards that they were measured with.

    The last line about a case counts. Lines that cannot be parsed, such as one that a killed run
    left incomplete, are ignored.

    Args:
        directory: the run directory.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE
        self._failed: dict[str, set[str]] = {}
        self._needs_newline = False
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be read: {error.strerror}") from error
        self._needs_newline = bool(lines[-1])
        for line in lines:
            entry = _parsed(line)
            if entry is not None:
                self._apply(entry)

    def failed(self, group: str) -> frozenset[str]:
        """Return the ids of the cases whose last outcome with these shards was a failure."""
        return frozenset(self._failed.get(group, ()))

    def note(self, groups: Iterable[str], case: str, verdict: str, *, failed: bool) -> None:
        """Append a case's outcome.

        Args:
            groups: the groups of shards that it was measured with.
            case: its id.
            verdict: for people who read the file.
            failed: whether it fails the run.

        Raises:
            StoreError: if it cannot be written.
        """
        self._add({"groups": sorted(groups), "case": case, "verdict": verdict, "failed": failed})

    def forget(self, group: str) -> None:
        """Discard the outcomes of a group, because it is measured again.

        Raises:
            StoreError: if it cannot be written.
        """
        self._add({"groups": [group], "case": None, "verdict": "", "failed": False})

    def _add(self, entry: Mapping[str, Any]) -> None:
        line = json.dumps(entry, sort_keys=True).encode() + b"\n"
        try:
            with self.path.open("ab") as file:
                file.write(b"\n" * self._needs_newline + line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            self._needs_newline = True
            raise NotWritten(f"{self.path}: cannot be written: {error.strerror}") from error
        self._needs_newline = False
        self._apply(entry)

    def _apply(self, entry: Mapping[str, Any]) -> None:
        for group in entry["groups"]:
            if entry["case"] is None:
                self._failed.pop(group, None)
            elif entry["failed"]:
                self._failed.setdefault(group, set()).add(entry["case"])
            else:
                self._failed.get(group, set()).discard(entry["case"])


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Return a line's entry; None if it is not a valid one."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or set(entry) != {"groups", "case", "verdict", "failed"}:
        return None
    groups, case = entry["groups"], entry["case"]
    fits = (
        isinstance(groups, list)
        and all(isinstance(each, str) for each in groups)
        and (case is None or isinstance(case, str))
        and isinstance(entry["failed"], bool)
    )
    return entry if fits else None
