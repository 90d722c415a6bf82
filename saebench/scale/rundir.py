"""The run directory: finished shards, each checked by its checksum; one run at a time."""

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

from saebench.errors import OptionError, StoreError
from saebench.store.atomic import write_file

FORMAT = 2
LOCK = "lock.json"
SHARDS = "shards"


class RunDirectory:
    """Where finished shards lie, each under the name of what it is a measurement of.

    Args:
        path: the directory; made where there is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged: list[str] = []

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the directory: a second run is refused, and told who is first.

        A killed run lets go of it.

        Raises:
            OptionError: where another run holds it, or it cannot be written.
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
                f"--sae-run-dir {self.path}: in use by {_holder(os.pread(file, 4096, 0))}; wait "
                "for it, or name another directory"
            ) from error
        mine = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": " ".join(["pytest", *sys.argv[1:]])[:500],
        }
        try:
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps(mine).encode(), 0)
        except OSError as error:
            raise OptionError(
                f"--sae-run-dir {self.path}: cannot be written: {error.strerror}"
            ) from error

    @property
    def is_empty(self) -> bool:
        """True where no shard lies in it yet."""
        return next((self.path / SHARDS).glob("*.shard"), None) is None

    def lies_there(self, key: str) -> bool:
        """True where there is a shard of this key, whole or damaged: it is not opened."""
        return self.file(key).is_file()

    def has(self, key: str) -> bool:
        """True where there is a whole shard of this key."""
        return self.read(key) is not None

    def read(self, key: str) -> bytes | None:
        """Return a finished shard's bytes; None where there is none, or it is damaged."""
        path = self.file(key)
        try:
            head, data = _split(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{path}: cannot be read: {error.strerror}") from error
        if _is_whole(head, data, key):
            return data
        if path.name not in self.damaged:
            self.damaged.append(path.name)
        return None

    def write(self, key: str, data: bytes) -> None:
        """Keep a finished shard: whole on disk before this returns.

        Raises:
            StoreError: where it cannot be written; what was there before is kept.
        """
        head = {"saebench": "shard", "format": FORMAT, "key": key, "sha256": _sha256(data)}
        write_file(self.file(key), json.dumps(head).encode() + b"\n" + data)

    def discard(self, key: str) -> None:
        """Remove a shard, so that it is measured anew.

        Raises:
            StoreError: where it cannot be removed.
        """
        try:
            self.file(key).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"{self.file(key)}: cannot be removed: {error.strerror}") from error

    def file(self, key: str) -> Path:
        """Return where a shard lies, or would."""
        return self.path / SHARDS / f"{key}.shard"


def payload(path: Path) -> bytes:
    """Return what a shard's file holds, behind its first line.

    Raises:
        StoreError: where it is not what was written.
    """
    try:
        head, data = _split(path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from error
    if not _is_whole(head, data, path.stem):
        raise StoreError(f"{path}: was altered during the run; the same command measures it again")
    return data


def _split(path: Path) -> tuple[bytes, bytes]:
    head, _, data = path.read_bytes().partition(b"\n")
    return head, data


def _is_whole(head: bytes, data: bytes, key: str) -> bool:
    try:
        told = json.loads(head)
    except ValueError:
        return False
    expected = {"saebench": "shard", "format": FORMAT, "key": key, "sha256": _sha256(data)}
    return told == expected


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _holder(data: bytes) -> str:
    """Say who holds a lock."""
    try:
        told = json.loads(data)
        return f"process {told['pid']} on {told['host']} since {told['since']} ({told['command']})"
    except (ValueError, KeyError, TypeError):
        return "another run"


FILE = "outcomes.jsonl"


class Outcomes:
    """Which cases failed, by what they were measured with: a group of shards.

    The last line about a case counts. A line that cannot be read, such as the half of one that a
    killed run leaves, says nothing.

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
            told = _parsed(line)
            if told is not None:
                self._take(told)

    def failed(self, group: str) -> frozenset[str]:
        """Return the ids of the cases that failed when they were last read from these shards."""
        return frozenset(self._failed.get(group, ()))

    def note(self, groups: Iterable[str], case: str, verdict: str, *, failed: bool) -> None:
        """Write down how a case ended.

        Args:
            groups: what it was read from.
            case: its id.
            verdict: for people who read the file.
            failed: whether it fails the run.

        Raises:
            StoreError: where it cannot be written.
        """
        self._add({"groups": sorted(groups), "case": case, "verdict": verdict, "failed": failed})

    def forget(self, group: str) -> None:
        """Write down that a group is measured anew: nothing is known of its cases.

        Raises:
            StoreError: where it cannot be written.
        """
        self._add({"groups": [group], "case": None, "verdict": "", "failed": False})

    def _add(self, told: Mapping[str, Any]) -> None:
        line = json.dumps(told, sort_keys=True).encode() + b"\n"
        try:
            with self.path.open("ab") as file:
                file.write(b"\n" * self._needs_newline + line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            self._needs_newline = True
            raise StoreError(f"{self.path}: cannot be written: {error.strerror}") from error
        self._needs_newline = False
        self._take(told)

    def _take(self, told: Mapping[str, Any]) -> None:
        for group in told["groups"]:
            if told["case"] is None:
                self._failed.pop(group, None)
            elif told["failed"]:
                self._failed.setdefault(group, set()).add(told["case"])
            else:
                self._failed.get(group, set()).discard(told["case"])


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Return what a line says; None where it is none of ours."""
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(told, dict) or set(told) != {"groups", "case", "verdict", "failed"}:
        return None
    groups, case = told["groups"], told["case"]
    fits = (
        isinstance(groups, list)
        and all(isinstance(each, str) for each in groups)
        and (case is None or isinstance(case, str))
        and isinstance(told["failed"], bool)
    )
    return told if fits else None
