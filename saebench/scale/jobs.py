"""What is told to those who measure shards: what to load, and then what to do."""

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
    """What a worker needs in order to load what is measured.

    Attributes:
        directory: where relative paths begin.
        settings: the run's.
        saes: the SPECs.
        ids: which of the SAEs that they name.
        threads: of matrix products.
    """

    directory: str
    settings: Settings
    saes: tuple[str, ...]
    ids: tuple[str, ...]
    threads: int


def recipe_of(
    scale: Scale, settings: Settings, specs: Sequence[str], chosen: "Iterable[SubjectReference]"
) -> Recipe:
    """Return what workers need in order to load some of the SAEs that SPECs name."""
    return Recipe(
        directory=os.getcwd(),
        settings=settings,
        saes=tuple(specs),
        ids=tuple(reference.id for reference in chosen),
        threads=scale.worker_threads,
    )


@dataclass(frozen=True)
class Job:
    """A shard to measure; or, with no rows, the first pass over the corpus.

    Attributes:
        number: its place among the jobs of one call.
        group: the SAEs.
        rows: the range of sequences.
        identity: what the one who asks takes for the same measurement.
        corpus: names what the first pass found; None where nothing needs it.
    """

    number: int
    group: "Group"
    rows: tuple[int, int] | None
    identity: str
    corpus: str | None = None
