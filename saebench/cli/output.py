"""The command's output: in the terminal's width, in colours only on a terminal."""

import os
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from saebench.report.style import Plain, plain_text

WIDE = 100


def console() -> Console:
    """Return the console on standard output, 100 columns wide where that is no terminal."""
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(file=sys.stdout, width=None if known else WIDE, highlight=False, emoji=False)


def say(*renderables: Any) -> None:
    """Print tables and texts, without trailing spaces."""
    out = console()
    for renderable in renderables:
        with out.capture() as captured:
            printed = Text(plain_text(renderable)) if isinstance(renderable, str) else renderable
            out.print(Plain(printed))
        lines = captured.get().splitlines()
        sys.stdout.write("".join(line.rstrip() + "\n" for line in lines))
