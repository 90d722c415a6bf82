"""Messages to workers: recipe and job."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saebench.options import Scale, Settings

if TYPE_CHECKING:
    from saebench.scale.shards import Group
    from saebench.subjects.references import SubjectReference


@dataclass(frozen=True)
class Recipe:
    """What a worker loads.

    Attributes:
        directory: the directory that relative paths refer to.
        settings: the run's settings.
        saes: the SPECs.
        ids: the ids of the SAEs to load, of those that the SPECs name.
        threads: number of torch's threads.
    """

    directory: str
    settings: Settings
    saes: tuple[str, ...]
    ids: tuple[str, ...]
    threads: int


def recipe_of(
    scale: Scale, settings: Settings, specs: Sequence[str], chosen: "Iterable[SubjectReference]"
) -> Recipe:
    """Return the recipe for loading the chosen SAEs, of those that the SPECs name."""
    return Recipe(
        directory=os.getcwd(),
        settings=settings,
        saes=tuple(specs),
        ids=tuple(reference.id for reference in chosen),
        threads=scale.worker_threads,
    )


@dataclass(frozen=True)
class Job:
    """A shard to measure; without rows, the first pass over the corpus.

    Attributes:
        number: its index among the jobs of one call.
        group: the SAEs and what to measure of them.
        rows: the range of sequences; None for the first pass.
        identity: the facts that a worker must agree on, as :func:`saebench.scale.shards.identity`
            returns them.
        corpus: the name of the corpus statistics that it needs, if any.
    """

    number: int
    group: "Group"
    rows: tuple[int, int] | None
    identity: str
    corpus: str | None = None
