"""How verdicts and names are shown in a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from saebench.errors import StoreError
from saebench.records.run import Verdict
from saebench.text import plain_text

__all__ = ["COLOURS", "Plain", "plain_text"]

COLOURS = {
    Verdict.PASS: "green",
    Verdict.FAIL: "bold red",
    Verdict.ERROR: "bold red",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.NEW: "cyan",
    Verdict.SKIPPED: "dim",
    Verdict.INCOMPARABLE: "yellow",
}


class Plain:
    """Something for a terminal, with nothing in its texts that steers it: colours are ours alone.

    The last line of defence: whatever a table is made of, a name in it can only be read.
    """

    def __init__(self, inner: RenderableType) -> None:
        self._inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        """Give what is inside, piece by piece."""
        for text, style, _ in console.render(self._inner, options):
            style = style.update_link(None) if style is not None and style.link else style
            lines = (plain_text(line) for line in text.split("\n"))
            yield Segment("\n".join(lines), style)


MISSHAPEN = (
    KeyError, TypeError, IndexError, AttributeError, ValueError, ArithmeticError, StopIteration,
)  # fmt: skip


@contextmanager
def reading_series(what: str) -> Iterator[None]:
    """Turn what series of another shape lead to into an error that says so.

    Verdicts, metrics and gates are typed and checked when a file is read; series are whatever a
    property wrote for its figures.

    Args:
        what: is made of them.

    Raises:
        StoreError: naming it.
    """
    try:
        yield
    except MISSHAPEN as error:
        raise StoreError(
            f"{what}: the run's series have another shape than saebench gives them ({error!r}); "
            "was the result file altered?"
        ) from error
