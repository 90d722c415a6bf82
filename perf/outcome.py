"""The outcome of a case: rows of a table, numbers compared with each other, peers left out."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from perf.agreement import Agreement, Compared

FLOOR = "the floor"


@dataclass(frozen=True)
class Target:
    """A bound on a row's ratio.

    Example:
        >>> Target(at_least=2.2).met(3.0), str(Target(at_most=1.25))
        (True, '≤ 1.25')
    """

    at_least: float | None = None
    at_most: float | None = None

    def met(self, ratio: float) -> bool:
        """Return whether the ratio is inside."""
        above = self.at_least is None or ratio >= self.at_least
        return above and (self.at_most is None or ratio <= self.at_most)

    def __str__(self) -> str:
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return f"≤ {self.at_most:g}"


@dataclass(frozen=True)
class Row:
    """Ours against one other figure, in the same unit.

    Attributes:
        ratio: theirs over ours for a peer; ours over theirs for a limit of the machine.
        met: None where the target is stated for other sizes than these, or there is none.
    """

    against: str
    ours: float
    theirs: float
    unit: str
    ratio: float
    target: str = ""
    met: bool | None = None


def row(
    against: str,
    figures: tuple[float, float],
    *,
    unit: str,
    ratio: float,
    target: Target | None,
    judges: bool,
) -> Row:
    """Return a row of (ours, theirs), judged where the target holds for this run's sizes."""
    if target is None:
        return Row(against, *figures, unit, ratio)
    return Row(against, *figures, unit, ratio, str(target), target.met(ratio) if judges else None)


@dataclass(frozen=True)
class Outcome:
    """Everything that one case measured.

    Attributes:
        seconds: every timed call, by runner.
        flops: of the matrix products that the work cannot do without; None where not counted.
        rates: FLOP/s of each kind of product, measured between the calls.
        left_out: peers that could not be measured, and why.
    """

    case: str
    title: str
    rows: tuple[Row, ...]
    compared: tuple[Compared, ...] = ()
    seconds: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    flops: float | None = None
    rates: Mapping[str, float] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def disagreements(self) -> tuple[Compared, ...]:
        """The numbers that differ and should not."""
        return tuple(c for c in self.compared if c.verdict is Agreement.DIFFERS)
