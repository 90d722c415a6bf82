"""How verdicts, directions and names look: colours, signs, arrows; texts that steer no terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from saebench.errors import StoreError
from saebench.records.metric import Direction
from saebench.records.verdict import Verdict
from saebench.text import plain_text

__all__ = ["ARROWS", "LOOKS", "Look", "Plain", "plain_text", "reading_series"]

ARROWS = {Direction.LOWER: "↓", Direction.HIGHER: "↑", Direction.TARGET: "→"}
SHOWN_UNITS = ("nats", "×")  # a share or a count needs none in a narrow table


@dataclass(frozen=True)
class Look:
    """How a verdict is shown.

    Attributes:
        colour: rich's style in a terminal.
        css: the colour in a notebook.
        sign: before the word in Markdown.
        shape: before the word on a page, where a colour alone must not tell verdicts apart.
    """

    colour: str
    css: str
    sign: str
    shape: str


LOOKS = {
    Verdict.PASS: Look("green", "#1a7f37", "✅", "✓"),
    Verdict.FAIL: Look("bold red", "#cf222e", "❌", "✕"),
    Verdict.ERROR: Look("bold red", "#cf222e", "💥", "!"),
    Verdict.INCONCLUSIVE: Look("yellow", "#9a6700", "❔", "≈"),
    Verdict.INCOMPLETE: Look("yellow", "#9a6700", "🚧", "…"),
    Verdict.NEW: Look("cyan", "#0969da", "🆕", "○"),
    Verdict.INCOMPARABLE: Look("yellow", "#9a6700", "❔", "≠"),
    Verdict.SKIPPED: Look("dim", "#57606a", "➖", "–"),
}


class Plain:
    """A renderable whose texts cannot steer the terminal: only our own colours reach it.

    The last line of defence: a control character in a name is shown as a question mark.
    """

    def __init__(self, inner: RenderableType) -> None:
        self._inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        """Yield the segments of the inner renderable with plain texts."""
        for text, style, _ in console.render(self._inner, options):
            style = style.update_link(None) if style is not None and style.link else style
            lines = (plain_text(line) for line in text.split("\n"))
            yield Segment("\n".join(lines), style)


UNEXPECTED_SHAPE = (
    KeyError, TypeError, IndexError, AttributeError, ValueError, ArithmeticError, StopIteration,
)  # fmt: skip


@contextmanager
def reading_series(what: str) -> Iterator[None]:
    """Turn errors from series of an unexpected shape into one that names the file's fault.

    Verdicts, metrics and gates are typed and checked when a file is read; series are whatever a
    property wrote for its figures.

    Args:
        what: the part of the report that reads them.

    Raises:
        StoreError: naming it.
    """
    try:
        yield
    except UNEXPECTED_SHAPE as error:
        raise StoreError(
            f"{what}: the run's series have another shape than saebench gives them ({error!r}); "
            "was the result file altered?"
        ) from error
