"""The schema of a record's JSON file: its version, upgrades of older ones, its name in errors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Upgrade = Callable[[dict[str, Any]], dict[str, Any]]
"""Brings the content of a file to the next schema version; it must accept any JSON object."""


def unchanged(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content of an older file as it is: the next version only added optional fields."""
    return content


@dataclass(frozen=True)
class Schema(Generic[T]):
    """A kind of JSON file, declared next to its record; store/json_files.py reads and writes it.

    Attributes:
        record: the dataclass that a file holds.
        version: the schema version that is written.
        title: the kind of file, in the error that a file is none.
        noun: the kind of record, in the error about a file's version; "" to leave it out.
        hint: how to write such a file again, for the end of every error.
        upgrades: for each older version that is read, the function that brings it to the next.
        check: raises ValueError for a record whose parts contradict each other.
    """

    record: type[T]
    version: int
    title: str
    noun: str = ""
    hint: str = ""
    upgrades: Mapping[int, Upgrade] = field(default_factory=dict)
    check: Callable[[T], object] = bool

    def upgraded(self, content: dict[str, Any]) -> dict[str, Any] | None:
        """Return a file's content as the newest version has it; None where it is not read.

        Example:
            >>> Schema(dict, 2, "file", upgrades={1: unchanged}).upgraded({"schema_version": 1})
            {'schema_version': 2}
        """
        version = content.get("schema_version")
        if isinstance(version, bool) or version not in (*self.upgrades, self.version):
            return None
        for older in range(int(version), self.version):
            content = self.upgrades[older](content)
        return content | {"schema_version": self.version}
