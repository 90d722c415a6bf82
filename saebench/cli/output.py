"""Where the command writes: the terminal's width, colours only where they are seen."""

import os
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from saebench.report.style import Plain, plain_text

WIDE = 100


def console() -> Console:
    """Return the console on standard output; where that is no terminal nothing is too wide."""
    told = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(file=sys.stdout, width=None if told else WIDE, highlight=False, emoji=False)


def say(*renderables: Any) -> None:
    """Print tables, and texts as they are, without the spaces that fill a line up."""
    out = console()
    for renderable in renderables:
        with out.capture() as captured:
            shown = Text(plain_text(renderable)) if isinstance(renderable, str) else renderable
            out.print(Plain(shown))
        lines = captured.get().splitlines()
        sys.stdout.write("".join(line.rstrip() + "\n" for line in lines))
