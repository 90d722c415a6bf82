"""How a run is shared out; nothing here changes a number."""

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from saebench.errors import OptionError, nearest

SHARD_TOKENS = 8192
SAES_TOGETHER = 32


class EngineKind(StrEnum):
    """Where shards are measured."""

    LOCAL = "local"
    RAY = "ray"


class Rerun(StrEnum):
    """What becomes of shards that lie in the run directory."""

    MISSING = "missing"
    FAILED = "failed"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True)
class Scale:
    """How a run is shared out.

    Attributes:
        engine: processes of this machine, or a Ray cluster.
        workers: how many processes of their own, or Ray actors; None measures in this process.
        address: of the Ray cluster; None starts one on this machine, ``auto`` finds a running one.
        run_dir: where finished shards are kept; None keeps them until the run is over.
        rerun: measure what is missing there, also what failed cases were read from, everything
            again, or nothing.
        shard_sequences: sequences of a shard; None takes as many as have 8192 tokens.
        threads: of each worker's matrix products; None is one for a worker, and all cores where
            there are no workers.
        gpus: of each Ray worker; a fraction shares one.
    """

    engine: EngineKind = EngineKind.LOCAL
    workers: int | None = None
    address: str | None = None
    run_dir: Path | None = None
    rerun: Rerun = Rerun.MISSING
    shard_sequences: int | None = None
    threads: int | None = None
    gpus: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            OptionError: naming the option.
        """
        for name, kind in (("engine", EngineKind), ("rerun", Rerun)):
            value = str(getattr(self, name))
            if value not in list(kind):
                raise OptionError(
                    f"--sae-{name}: unknown value {value!r}{nearest(value, map(str, kind))}"
                )
            object.__setattr__(self, name, kind(value))
        for name, option in (
            ("workers", "workers"),
            ("shard_sequences", "shard-sequences"),
            ("threads", "worker-threads"),
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"--sae-{option} must be 1 or more, found {value}")
        if self.gpus is not None and not 0 <= self.gpus < float("inf"):
            raise OptionError(f"--sae-worker-gpus must be 0 or more, found {self.gpus}")
        if self.engine is not EngineKind.RAY and (self.address or self.gpus):
            option = "--sae-ray-address" if self.address else "--sae-worker-gpus"
            raise OptionError(f"{option} is Ray's: give --sae-engine ray too")
        if self.rerun is not Rerun.MISSING and self.run_dir is None:
            raise OptionError(
                f"--sae-rerun {self.rerun.value}: of which run? give its --sae-run-dir DIR too"
            )

    @property
    def shares_out(self) -> bool:
        """True where the run is cut into shards."""
        return self.hires or self.run_dir is not None or self.shard_sequences is not None

    def refuse_rounds(self) -> None:
        """Refuse to share out a run that ends early.

        Raises:
            OptionError: naming both options.
        """
        if self.shares_out:
            raise OptionError(
                "--sae-stop-early measures in rounds, and --sae-workers, --sae-engine, "
                "--sae-run-dir in shards: give one or the other"
            )

    @property
    def hires(self) -> bool:
        """True where others measure the shards, not this process."""
        return self.engine is EngineKind.RAY or self.workers is not None

    @property
    def worker_threads(self) -> int:
        """Threads of the matrix products in a process that measures shards."""
        if self.threads is not None:
            return self.threads
        return 1 if self.hires else (os.cpu_count() or 1)
