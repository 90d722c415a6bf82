"""One case: ours and the peers by turns on the same work, against each other and the floor."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from itertools import chain

from perf.agreement import Compared, compare_figures
from perf.figures import Figures, Runner
from perf.flops import Product, total_flops
from perf.machine import Rates
from perf.outcome import FLOOR, Outcome, Row, Target, row
from perf.peers.sae_bench import PeerUnavailable
from perf.settings import Settings
from perf.timing import CLOCKS, STATISTICS, Timed, by_turns

OURS = "saebench"


@dataclass(frozen=True)
class SideBySide:
    """What runs side by side.

    Attributes:
        ours: our call.
        peers: the peers' calls by name, started when the case starts.
        counted: the matrix products that the floor is computed from.
        targets: by peer, or for ``FLOOR``.
        noisy: interventions whose noise ours and the peers draw differently.
        aligned: a plain pass with the peers' masks, for what they define otherwise.
        left_out: peers that are not even tried, and why.
    """

    case: str
    title: str
    ours: Runner
    peers: Mapping[str, AbstractContextManager[Runner]]
    counted: tuple[Product, ...]
    targets: Mapping[str, Target]
    noisy: frozenset[str] = frozenset()
    aligned: Figures | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)

    def run(self, settings: Settings) -> Outcome:
        """Time and compare."""
        clock, left_out = CLOCKS[settings.clock], dict(self.left_out)
        rates = Rates(clock=clock, device=settings.device)
        rates.sample(self.counted)
        with ExitStack() as stack:
            runners = {OURS: self.ours} | self._started(stack, left_out)
            timed = by_turns(
                runners,
                repeats=settings.repeats,
                between=lambda: rates.sample(self.counted),
                clock=clock,
            )
        return Outcome(
            case=self.case,
            title=self.title,
            rows=self._rows(timed, rates, settings),
            compared=self._compared(timed),
            seconds={name: found.seconds for name, found in timed.items()},
            flops=total_flops(self.counted),
            rates=dict(rates.best),
            left_out=left_out,
        )

    def _started(self, stack: ExitStack, left_out: dict[str, str]) -> dict[str, Runner]:
        found: dict[str, Runner] = {}
        for name, peer in self.peers.items():
            try:
                found[name] = stack.enter_context(peer)
            except PeerUnavailable as error:
                left_out[name] = str(error)
        return found

    def _compared(self, timed: Mapping[str, Timed]) -> tuple[Compared, ...]:
        ours = timed[OURS].figures
        found = (
            compare_figures(ours, theirs.figures, peer=peer, noisy=self.noisy, aligned=self.aligned)
            for peer, theirs in timed.items()
            if peer != OURS
        )
        return tuple(chain.from_iterable(found))

    def _rows(
        self, timed: Mapping[str, Timed], rates: Rates, settings: Settings
    ) -> tuple[Row, ...]:
        typical = STATISTICS[settings.statistic]
        ours = typical(timed[OURS].seconds)
        theirs = {name: typical(found.seconds) for name, found in timed.items() if name != OURS}
        ratios = {name: seconds / ours for name, seconds in theirs.items()}
        floor = rates.seconds(self.counted)
        theirs[FLOOR], ratios[FLOOR] = floor, ours / floor
        return tuple(
            row(
                name,
                (ours, theirs[name]),
                unit="s",
                ratio=ratios[name],
                target=self.targets.get(name),
                judges=settings.judges,
            )
            for name in theirs
        )


def here(runner: Runner) -> AbstractContextManager[Runner]:
    """Return a peer that runs in this process and needs no start."""
    return nullcontext(runner)
