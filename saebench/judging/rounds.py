"""Measures in rounds of sequences, and ends where every gate that decides is decided."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from saebench.judging.cases import joined as pair_name
from saebench.judging.progress import ProgressBar
from saebench.properties.base import CONTROLS, PAIRS, TAX, Source
from saebench.scale.joining import InOrder
from saebench.statistics.looks import Look, looks

if TYPE_CHECKING:
    from saebench.judging.bench import Bench, Keep, Wanted

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
