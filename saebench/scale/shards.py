"""Shards: SAEs of one model × a range of sequences, named by all that determines their bits."""

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
    """SAEs or pairs that are measured together, by their ids, as sent to workers.

    Attributes:
        bench: the index of their bench in the run.
        experiment: what to measure.
        wanted: for each SAE or pair its ids, and its target's interventions, channels to store and
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
        """Return the targets, with the SAEs of a bench."""
        by_id = {subject.id: subject for subject in bench.subjects}
        return [Target(tuple(by_id[sae] for sae in ids), *needs) for ids, needs in self.wanted]


def groups_of(bench: int, experiment: Experiment, targets: Targets) -> Iterator[Group]:
    """Yield groups of at most 32 SAEs, counting their controls; all pairs are one group."""
    wanted = [
        (tuple(s.id for s in t.subjects), (t.interventions, t.keep, t.probes)) for t in targets
    ]
    size = len(wanted) if experiment.of_pairs else SAES_TOGETHER // experiment.saes_for_each
    for start in range(0, len(wanted), size or 1):
        yield Group(bench, experiment, tuple(wanted[start : start + size]))


def ranges_of(sequences: int, width: int, *, size: int | None) -> list[tuple[int, int]]:
    """Return the ranges of sequences of the shards, which do not depend on the workers.

    Args:
        sequences: number of sequences.
        width: tokens in each.
        size: sequences in a shard; if None, as many as have 8192 tokens.

    Example:
        >>> ranges_of(5, 128, size=2)
        [(0, 2), (2, 4), (4, 5)]
    """
    step = size or max(1, SHARD_TOKENS // width)
    return [(i, min(i + step, sequences)) for i in range(0, sequences, step)]


def identity(bench: "Bench", group: Group, *, threads: int) -> str:
    """Return as text everything that the bits of a group's measurement depend on."""
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
    """Return a shard's name, a hash of its identity and range."""
    return hashlib.sha256(f"{identity}{rows}".encode()).hexdigest()[:40]
