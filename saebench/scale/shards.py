"""What a run is cut into: SAEs of one model × a range of sequences, each with a name of its own."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from saebench import __version__
from saebench.experiments.base import Experiment, Target, Targets
from saebench.options import SAES_TOGETHER, SHARD_TOKENS
from saebench.records.case import joined
from saebench.scale.rundir import FORMAT

if TYPE_CHECKING:
    from saebench.experiments.bench import Bench


@dataclass(frozen=True)
class Group:
    """SAEs, or pairs of them, that are measured together; ids alone, as workers are sent it.

    Attributes:
        bench: which of the run's benches they are on.
        experiment: what is measured.
        wanted: of each SAE or pair its ids, and the target's interventions, channels to keep and
            probes.
    """

    bench: int
    experiment: Experiment
    wanted: tuple[tuple[tuple[str, ...], tuple[Any, ...]], ...]

    @property
    def names(self) -> list[str]:
        """The SAEs' ids, or the pairs' names."""
        return [joined(ids) for ids, _ in self.wanted]

    def targets(self, bench: "Bench") -> list[Target]:
        """Return what to measure, with the SAEs of a bench."""
        by_id = {subject.id: subject for subject in bench.subjects}
        return [Target(tuple(by_id[sae] for sae in ids), *needs) for ids, needs in self.wanted]


def groups_of(bench: int, experiment: Experiment, targets: Targets) -> Iterator[Group]:
    """Give groups of at most 32 SAEs, their controls counted; all pairs are one group."""
    wanted = [
        (tuple(s.id for s in t.subjects), (t.interventions, t.keep, t.probes)) for t in targets
    ]
    size = len(wanted) if experiment.of_pairs else SAES_TOGETHER // experiment.saes_for_each
    for start in range(0, len(wanted), size or 1):
        yield Group(bench, experiment, tuple(wanted[start : start + size]))


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
    targets = group.targets(bench)
    subjects = dict.fromkeys(subject for target in targets for subject in target.subjects)
    saes = [bench.describe(subject, path="") for subject in subjects]
    facts: dict[str, Any] = {
        "format": FORMAT,
        "versions": [__version__, torch.__version__],
        "model": [bench.model.weights_sha256, bench.model.dtype],
        "device": bench.host.device.type,
        "data": group.experiment.on(bench).extent(targets).fingerprint,
        "corpus": bench.tokens.fingerprint,
        "experiment": str(group.experiment),
        "wanted": group.wanted,
        "saes": [[s.weights_sha256, s.config_sha256, s.hook, s.training_context] for s in saes],
        "seed": settings.seed,
        "batch_size": settings.batch_size,
        "score_bos": settings.score_bos,
        "threads": threads,
    }
    return json.dumps(facts, sort_keys=True, default=asdict)  # of probes


def shard_key(identity: str, rows: tuple[int, int]) -> str:
    """Name a shard by what it is a measurement of."""
    return hashlib.sha256(f"{identity}{rows}".encode()).hexdigest()[:40]
