"""What cases read: every SAE and every pair of a bench measured once, for all announced cases."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from saebench.experiments.base import CONTROLS, PAIRS, SEQUENCES, TAX, Among, ManyDraws, Source
from saebench.experiments.joining import InOrder
from saebench.progress import ProgressBar, no_progress
from saebench.properties import find_property
from saebench.records.case import CaseRequest
from saebench.records.case import joined as pair_name
from saebench.statistics.levels import Look, looks

if TYPE_CHECKING:
    from saebench.experiments.bench import Bench, Keep, Wanted


Key = tuple[str, Source]
"""Whose measurement it is, an SAE's or a pair's, and what it was made on."""


AGAIN_SEQUENCES = 32
AGAIN_DRAWN = 8  # each under hundreds of random errors: more would cost what the run did
AGAIN_BATCHES = (3, 8)  # sizes of which other matrix kernels come


class Maker(Protocol):
    """Measures what is on a bench, whole or in shards."""

    def measure(
        self,
        bench: "Bench",
        source: Source,
        wanted: "Wanted",
        *,
        keep: "Keep",
        progress: ProgressBar,
    ) -> dict[str, Any]:
        """Return each SAE's measurement by id; NotApplicable where there can be none."""
        ...

    def measure_pairs(
        self, bench: "Bench", pairs: Iterable[tuple[str, ...]], *, progress: ProgressBar
    ) -> dict[str, Any]:
        """Return each pair's measurement by its joined name."""
        ...


class Whole:
    """Measures in this process, in one go."""

    def measure(
        self,
        bench: "Bench",
        source: Source,
        wanted: "Wanted",
        *,
        keep: "Keep",
        progress: ProgressBar,
    ) -> dict[str, Any]:
        """Return what the bench finds."""
        return bench.measure(source, wanted, keep=keep, progress=progress)

    def measure_pairs(
        self, bench: "Bench", pairs: Iterable[tuple[str, ...]], *, progress: ProgressBar
    ) -> dict[str, Any]:
        """Return what the bench finds."""
        return bench.measure_pairs(pairs, progress=progress)


class Measurements:
    """Makes measurements when they are first read, and keeps them.

    Args:
        interventions: says which of them a case needs.
        source: says what it is measured on.
    """

    def __init__(
        self,
        interventions: Callable[[CaseRequest], tuple[str, ...]],
        source: Callable[[CaseRequest], Source],
    ) -> None:
        self._interventions = interventions
        self._source = source
        self._shares: Mapping[str, int] = {}
        self._requests: tuple[CaseRequest, ...] = ()
        self._made: dict[Key, Any] = {}
        self._again: dict[Key, tuple[Any, Any]] = {}
        self._maker: Maker = Whole()

    def made_by(self, maker: Maker) -> None:
        """Say who measures."""
        self._maker = maker

    def announce(self, requests: tuple[CaseRequest, ...]) -> None:
        """Take the cases that will be asked for: what they need is measured together."""
        self._requests = requests

    def share_out(self, shares: Mapping[str, int]) -> None:
        """Measure together only SAEs of one share: each process has its own."""
        self._shares = shares

    def of(self, request: CaseRequest, bench: "Bench", *, progress: ProgressBar) -> Any:
        """Return the measurement that a case reads, or the error that there is instead."""
        source = self._source(request)
        if (request.sae, source) not in self._made:
            if source == PAIRS:
                pairs = [r.subjects for r in self._beside(request) if bench.has(r.subjects)]
                found = self._maker.measure_pairs(bench, dict.fromkeys(pairs), progress=progress)
            else:
                found = self._of_each(bench, request, progress)
            self._made |= {(name, source): made for name, made in found.items()}
        return self._made[request.sae, source]

    def twice(self, request: CaseRequest, bench: "Bench") -> tuple[Any, Any] | None:
        """Return what a case reads of its first sequences, measured twice more.

        In batches of two sizes; None where there is no measurement to be made.
        """
        both = self._again_of(request, bench, request.sae)
        if both is None or not find_property(request.property_name).peers:
            return both
        peers = ((s.id, self._again_of(request, bench, s.id)) for s in bench.read_by(request)[1:])
        others = {name: again for name, again in peers if again is not None}
        one, two = (Among(both[i], {n: again[i] for n, again in others.items()}) for i in (0, 1))
        return one, two

    def _again_of(self, request: CaseRequest, bench: "Bench", name: str) -> tuple[Any, Any] | None:
        """Return both measurements of an SAE or a pair, made once for all cases that read them."""
        key = (name, self._source(request))
        if key not in self._again:
            if isinstance(self._made.get(key), Exception):
                return None
            one, two = (self._again_in(bench, request, name, size) for size in AGAIN_BATCHES)
            self._again[key] = (one, two)
        both = self._again[key]
        return None if any(isinstance(each, Exception) for each in both) else both

    def _again_in(self, bench: "Bench", request: CaseRequest, name: str, batch_size: int) -> Any:
        source = self._source(request)
        count = AGAIN_DRAWN if isinstance(source, ManyDraws) else AGAIN_SEQUENCES
        part = bench.within(slice(0, count))
        part.settings = replace(part.settings, batch_size=batch_size)
        if source == PAIRS:
            return part.measure_pairs([request.subjects], progress=no_progress)[name]
        names, kept = self._needed(request, name)
        wanted = [(s, names) for s in part.subjects if s.id == name]
        found = part.measure(source, wanted, keep={name: kept}, progress=no_progress)[name]
        return found.settled() if hasattr(found, "settled") else found

    def among(self, request: CaseRequest, bench: "Bench", own: Any) -> Among:
        """Return an SAE's measurement among those of its peers."""
        source = self._source(request)
        others = {s.id: self._made[s.id, source] for s in bench.read_by(request)[1:]}
        left_out = {n: str(made) for n, made in others.items() if isinstance(made, Exception)}
        kept = {n: made for n, made in others.items() if n not in left_out}
        apart = [peer for peer in request.peers if not bench.has([peer])]
        return Among(own, kept, left_out | dict.fromkeys(apart, "measured on other tokens"))

    def belonging_to(self, sae: str) -> Iterator[tuple[Key, Any]]:
        """Give the measurements with per-sequence sums of an SAE; a pair's are its second's."""
        for key, made in self._made.items():
            if hasattr(made, "table") and getattr(made, "ids", key[:1])[-1] == sae:
                yield key, made

    def path(self, sae: str) -> str:
        """Return how the model was run with this SAE, on whole SEQUENCES where it was on those."""
        paths: dict[Source, str] = {}
        for (key, source), made in self._made.items():
            path = getattr(getattr(made, "own", made), "path", None)
            if path is not None and sae in getattr(made, "ids", (key,)):
                paths.setdefault(source, path)
        return paths.get(SEQUENCES, next(iter(paths.values()), "not measured"))

    def _of_each(
        self, bench: "Bench", request: CaseRequest, progress: ProgressBar
    ) -> dict[str, Any]:
        """Measure every SAE of the bench that some announced case of this process needs."""
        wanted, keep = [], {}
        needing = {sae for r in self._beside(request) for sae in r.needs}
        for subject in bench.subjects:
            if subject.id in needing:
                names, keep[subject.id] = self._needed(request, subject.id)
                wanted.append((subject, names))
        source = self._source(request)
        return self._maker.measure(bench, source, wanted, keep=keep, progress=progress)

    def _needed(self, request: CaseRequest, sae: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the interventions, and what is kept beyond sums, that cases need of an SAE."""
        mine = [r for r in self._beside(request) if sae in r.needs]
        names = dict.fromkeys(name for r in mine for name in self._interventions(r))
        kept = (find_property(r.property_name).keeps for r in mine)
        return tuple(names), tuple(dict.fromkeys(c for some in kept for c in some))

    def _beside(self, request: CaseRequest) -> Iterator[CaseRequest]:
        """Give the cases that are measured on what this one is, in this process."""
        source, share = self._source(request), self._shares.get(request.subjects[0])
        for other in self._requests:
            if self._source(other) == source and self._shares.get(other.subjects[0]) == share:
                yield other


Settled = Callable[["Bench", str, Source, Any, Look], bool]
Part = Callable[["Bench", Sequence[str]], Mapping[str, Any]]


class Rounds:
    """Measures benches in rounds: of 32 sequences, then as many again as there are.

    Each SAE leaves when all gates about it, on what is being measured, are decided; where some
    case reads several SAEs side by side, they leave together. What is measured is the first part
    of the whole run: its numbers are those that the whole run has there.

    Args:
        is_settled: says whether a measurement decides all gates about an SAE, at a look.
        together: says whether a source's SAEs have to be measured on the same sequences.
    """

    def __init__(self, is_settled: Settled, together: Callable[[Source], bool]) -> None:
        self._is_settled = is_settled
        self._together = together
        self._ended: dict[tuple[str, Source], Look] = {}

    def look(self, name: str, source: Source) -> Look | None:
        """Return the look at which a measurement ended; None where it was made in one go."""
        return self._ended.get((name, source))

    def measure(
        self,
        bench: "Bench",
        source: Source,
        wanted: "Wanted",
        *,
        keep: "Keep",
        progress: ProgressBar,
    ) -> dict[str, Any]:
        """Return each SAE's measurement by id, as the bench itself would of fewer sequences."""
        sequences, _, _ = bench.extent(source, wanted)
        # Controls are few sequences already, and what is timed is not divided.
        if sequences == 0 or source in (CONTROLS, TAX):
            return bench.measure(source, wanted, keep=keep, progress=progress)

        def part(some: "Bench", names: Sequence[str]) -> Mapping[str, Any]:
            chosen = [(s, needs) for s, needs in wanted if s.id in names]
            return some.measure(source, chosen, keep=keep, progress=progress)

        names = [subject.id for subject, _ in wanted]
        return self._in_rounds(bench, source, names, part, sequences=sequences)

    def measure_pairs(
        self, bench: "Bench", pairs: Iterable[tuple[str, ...]], *, progress: ProgressBar
    ) -> dict[str, Any]:
        """Return each pair's measurement by its joined name, likewise."""
        by_name = {pair_name(pair): pair for pair in pairs}

        def part(some: "Bench", names: Sequence[str]) -> Mapping[str, Any]:
            return some.measure_pairs([by_name[name] for name in names], progress=progress)

        count = len(bench.tokens.ids)
        return self._in_rounds(bench, PAIRS, list(by_name), part, sequences=count)

    def _in_rounds(
        self, bench: "Bench", source: Source, names: list[str], part: Part, *, sequences: int
    ) -> dict[str, Any]:
        parts: dict[str, list[Mapping[str, Any]]] = {name: [] for name in names}
        found: dict[str, Any] = {}
        start, left = 0, names
        for look in looks(sequences):
            some = bench.within(slice(start, look.sequences))
            new = part(some, left)
            bench.costs += some.costs
            for name in left:
                parts[name].append({name: new[name]})
                found[name] = _whole(parts[name])[name]
                self._ended[name, source] = look
            start = look.sequences
            left = self._undecided(bench, source, left, found, look)
            if not left:
                break
        return found

    def _undecided(
        self, bench: "Bench", source: Source, names: list[str], found: Mapping[str, Any], look: Look
    ) -> list[str]:
        """Return the SAEs that have to be measured further."""
        going = [n for n in names if not isinstance(found[n], Exception)]
        open_ = [n for n in going if not self._is_settled(bench, n, source, found[n], look)]
        return going if open_ and self._together(source) else open_


def _whole(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    together = InOrder()
    for part in parts:
        together.add(part)
    return together.whole()
