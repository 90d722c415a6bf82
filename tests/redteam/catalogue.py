"""The list of adversaries: each a function that builds one for a model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from redteam.world import World

Build = Callable[[World], Any]


class Absent(Exception):
    """A model lacks what an adversary is made of."""


@dataclass(frozen=True)
class Adversary:
    """An SAE that no gate should let pass.

    Attributes:
        name: what the table calls it.
        imitates: one sentence on what it is.
        build: makes it for a model; raises Absent where that is impossible.
        caught_by: the metric whose gate must fail it on every model; None for one that is refused,
            that still gets through, or that different gates fail.
        refused: it is refused before anything is measured.
        passes_because: why it still gets through, where it does.
    """

    name: str
    imitates: str
    build: Build
    caught_by: str | None
    refused: bool
    passes_because: str | None


ADVERSARIES: dict[str, Adversary] = {}


def adversary(
    *, caught_by: str | None = None, refused: bool = False, passes_because: str | None = None
) -> Callable[[Build], Build]:
    """Add a function to the list; its name and docstring are the adversary's."""

    def added(build: Build) -> Build:
        name = build.__name__.replace("_", "-")
        imitates = " ".join((build.__doc__ or "").split())
        ADVERSARIES[name] = Adversary(name, imitates, build, caught_by, refused, passes_because)
        return build

    return added
