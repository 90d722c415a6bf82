"""Merging of a run's parts in a fixed order, so that the bits do not depend on their arrival."""

from collections.abc import Iterable

from saebench.experiments.base import Results

AT_ONCE = 32


class InOrder:
    """Merges a run's parts as they arrive, in order, with few of them in memory at a time.

    Which parts are added to which depends on their number alone, so that the same parts give the
    same bits.

    Args:
        parts: the first parts.
    """

    def __init__(self, parts: Iterable[Results] = ()) -> None:
        self._levels: list[list[Results]] = []
        for part in parts:
            self.add(part)

    def add(self, part: Results) -> None:
        """Add the next part."""
        level = 0
        while True:
            if level == len(self._levels):
                self._levels.append([])
            self._levels[level].append(part)
            if len(self._levels[level]) < AT_ONCE:
                return
            part, self._levels[level] = Results.merged(self._levels[level]), []
            level += 1

    def whole(self) -> Results:
        """Return the merged results of all parts, finished."""
        rest: list[Results] = []
        for level in self._levels:
            rest = [Results.merged([*level, *rest])] if level or rest else []
        return rest[0].finished()
