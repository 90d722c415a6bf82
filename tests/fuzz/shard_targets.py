"""Fuzz targets in a run directory: shards, and the log of finished cases."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from saebench.errors import NotApplicable
from saebench.experiments.codec import decode, encode
from saebench.measures.sums import TokenSums
from saebench.scale.rundir import FILE, Outcomes
from saebench.substitution.measurement import Measurement


def read_outcomes(content: bytes) -> None:
    """Read a log, and go on with it."""
    with TemporaryDirectory() as directory:
        (Path(directory) / FILE).write_bytes(content)
        Outcomes(Path(directory)).note({"new"}, "case", "FAIL", failed=True)
        assert Outcomes(Path(directory)).failed("new") == {"case"}


def read_shard(content: bytes) -> None:
    """Read what a shard holds; its checksum is whoever's who wrote it."""
    decode(content)


def outcomes() -> bytes:
    """Return a log."""
    with TemporaryDirectory() as directory:
        log = Outcomes(Path(directory))
        log.note({"one", "two"}, "fidelity@a", "FAIL", failed=True)
        log.forget("one")
        return log.path.read_bytes()


def shard() -> bytes:
    """Return what a small shard holds."""
    sums = TokenSums(2, 3)
    sums.by_sequence["kl"] = np.array([1.0, 2.0])
    made = Measurement(sums, ("sae",), np.array([3, 0]), "resumed")
    return encode({"found": {"a": made, "b": NotApplicable("no text")}, "costs": []})
