"""What a run is cut into: SAEs of one model × a range of sequences, each with a name of its own."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from saebench import __version__
from saebench.experiments.base import CONTROLS, PAIRS, Source
from saebench.experiments.control_saes import TOGETHER
from saebench.options import SAES_TOGETHER, SHARD_TOKENS
from saebench.records.case import joined as pair_name
from saebench.scale.rundir import FORMAT

if TYPE_CHECKING:
    from saebench.experiments.bench import Bench
    from saebench.subjects.sae import Subject

Keep = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Group:
    """SAEs, or pairs of them, that are measured together.

    Attributes:
        bench: which of the run's benches they are on.
        source: what they are measured on.
        wanted: the SAEs' ids with the interventions each needs; of pairs, their ids.
        keep: what is kept of each beyond sums.
    """

    bench: int
    source: Source
    wanted: tuple[tuple[str, tuple[str, ...]], ...]
    keep: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def subjects(self, bench: "Bench") -> "list[tuple[Subject, tuple[str, ...]]]":
        """Return the SAEs with their interventions; of pairs, every SAE of any."""
        by_id = {subject.id: subject for subject in bench.subjects}
        if self.source == PAIRS:
            ids = dict.fromkeys(sae for pair in self.pairs for sae in pair)
            return [(by_id[sae], ()) for sae in ids]
        return [(by_id[sae], names) for sae, names in self.wanted]

    @property
    def measures(self) -> list[tuple[str, Source]]:
        """What it gives: whose measurements, and on what."""
        return [(name, self.source) for name, _ in self.wanted]

    @property
    def pairs(self) -> list[tuple[str, ...]]:
        """The pairs."""
        return [ids for _, ids in self.wanted]


def groups_of(
    bench: int, source: Source, wanted: Sequence[tuple[str, Sequence[str]]], keep: Keep
) -> Iterator[Group]:
    """Give groups of at most 32 SAEs, their controls counted."""
    at_once = SAES_TOGETHER // TOGETHER if source == CONTROLS else SAES_TOGETHER
    for start in range(0, len(wanted), at_once):
        some = tuple((sae, tuple(names)) for sae, names in wanted[start : start + at_once])
        kept = tuple((sae, tuple(keep[sae])) for sae, _ in some if sae in keep)
        yield Group(bench, source, some, kept)


def pair_group(bench: int, pairs: Sequence[tuple[str, ...]]) -> Group:
    """Return the group of all pairs: those that share a first SAE share its pass."""
    return Group(bench, PAIRS, tuple((pair_name(pair), pair) for pair in pairs))


def ranges_of(sequences: int, width: int, *, size: int | None) -> list[tuple[int, int]]:
    """Return the ranges that sequences are cut into: the same whoever measures them.

    Args:
        sequences: how many.
        width: tokens in each.
        size: sequences of a shard; as many as have 8192 tokens where None.

    Example:
        >>> ranges_of(5, 128, size=2)
        [(0, 2), (2, 4), (4, 5)]
    """
    step = size or max(1, SHARD_TOKENS // width)
    return [(i, min(i + step, sequences)) for i in range(0, sequences, step)]


def identity(bench: "Bench", group: Group, *, threads: int) -> str:
    """Return everything that the bits of a group's measurement depend on, as text."""
    settings = bench.settings
    subjects = group.subjects(bench)
    _, _, data = bench.extent(group.source, subjects)
    saes = [bench.describe(s, path="") for s, _ in subjects]
    facts: dict[str, Any] = {
        "format": FORMAT,
        "versions": [__version__, torch.__version__],
        "model": [bench.model.weights_sha256, bench.model.dtype],
        "device": bench.host.device.type,
        "data": data,
        "corpus": bench.tokens.fingerprint,
        "source": str(group.source),
        "wanted": group.wanted,
        "keep": group.keep,
        "saes": [[s.weights_sha256, s.config_sha256, s.hook, s.training_context] for s in saes],
        "seed": settings.seed,
        "batch_size": settings.batch_size,
        "score_bos": settings.score_bos,
        "threads": threads,
    }
    return json.dumps(facts, sort_keys=True)


def shard_key(identity: str, rows: tuple[int, int]) -> str:
    """Name a shard by what it is a measurement of."""
    return hashlib.sha256(f"{identity}{rows}".encode()).hexdigest()[:40]
