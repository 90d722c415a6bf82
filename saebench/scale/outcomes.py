"""How cases ended that were read from a run directory's shards: a log, one line for each."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from saebench.errors import StoreError

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
