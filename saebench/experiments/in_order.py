"""Results of consecutive parts of a run put together: the same bits whenever a part came."""

from collections.abc import Iterable

from saebench.experiments.base import Results

AT_ONCE = 32


class InOrder:
    """Merges a run's parts as they come, in order, and holds few of them at a time.

    Which parts are added to which is fixed by their number alone: the bits of a sum do not
    depend on when a part came.

    Args:
        parts: the first ones.
    """

    def __init__(self, parts: Iterable[Results] = ()) -> None:
        self._levels: list[list[Results]] = []
        for part in parts:
            self.add(part)

    def add(self, part: Results) -> None:
        """Take the next part."""
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
        """Return the results of the whole run."""
        rest: list[Results] = []
        for level in self._levels:
            rest = [Results.merged([*level, *rest])] if level or rest else []
        return rest[0].finished()
