"""Timing of one SAE: encode and decode alone, and the core of an evaluation."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from saebench.data.tokens import TokenSet
from saebench.experiments.base import Measurer, Results, Targets
from saebench.measures.resources import peak_bytes
from saebench.progress import ProgressBar
from saebench.subjects.host import Host
from saebench.subjects.sae import Subject
from saebench.substitution.batches import read_rows, tokens_a_pass
from saebench.substitution.engine import Engine
from saebench.substitution.gathering import reading_site, site_of
from saebench.substitution.passes import Passes

RECONSTRUCT, CORE = PARTS = ("reconstruct", "core")
ROUNDS = 3


@dataclass
class Workload:
    """One batch of the run to be timed with one SAE.

    ``reconstruct`` is encode and decode. ``core`` is the clean pass, the SAE and zero ablation,
    with KL and CE, which every SAE evaluator computes.

    Args:
        host: the model.
        tokens: the run's sequences, of which as many are used as one pass takes.
        subject: the SAE.

    Attributes:
        rounds: the seconds of each round, by part.
    """

    host: Host
    tokens: TokenSet
    subject: Subject
    rounds: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Keep the sequences of one pass."""
        size = max(1, tokens_a_pass(self.host) // self.tokens.ids.shape[1])
        some = {"ids": self.tokens.ids[:size], "counted": self.tokens.counted[:size]}
        self.tokens = replace(self.tokens, **some)

    @property
    def count(self) -> int:
        """Number of tokens in a round."""
        return int(self.tokens.counted.sum())

    @property
    def parameters(self) -> int:
        """Number of the SAE's parameters."""
        return sum(p.numel() for p in self.subject.sae.parameters())

    @property
    def peak_bytes(self) -> int:
        """Peak memory of this process so far."""
        return peak_bytes(self.host.device)

    def part(self, name: str) -> Callable[[], None]:
        """Return a function that runs one round of a part and records its time."""
        work = self._core if name == CORE else self._reconstruction()

        def one_round() -> None:
            started = time.perf_counter()
            work()
            if self.host.device.type == "cuda":
                torch.cuda.synchronize()
            self.rounds.setdefault(name, []).append(time.perf_counter() - started)

        return one_round

    def seconds(self, name: str) -> float:
        """Return the fastest round's seconds; if there are none, runs a few first."""
        if not self.rounds.get(name):
            one_round = self.part(name)
            for _ in range(ROUNDS):
                one_round()
        return min(self.rounds[name])

    def _core(self) -> None:
        engine = Engine(self.host, self.tokens, seed=0, batch_size=len(self.tokens.ids))
        engine.measure([(self.subject, ("sae", "zero"))], progress=lambda _: None)

    def _reconstruction(self) -> Callable[[], object]:
        device = self.host.device
        written = site_of(self.host, self.subject)
        site = reading_site(self.host, self.subject, writes=written)
        clean = Passes(self.host).clean(self.tokens.ids.to(device), [site], stop_early=True)
        x = read_rows(site, clean.activations[site], self.tokens.counted.to(device))
        return lambda: self.subject.reconstruct(x)


class TimingMeasurer(Measurer):
    """Prepares the workloads; the cost cases run and time them."""

    def measure(self, targets: Targets, *, progress: ProgressBar) -> Results:  # noqa: ARG002
        """Return each SAE's workload."""
        bench = self.bench
        return Results({t.name: Workload(bench.host, bench.tokens, t.subject) for t in targets})
