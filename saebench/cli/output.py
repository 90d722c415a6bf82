"""What the commands print: tables and texts as wide as the terminal, coloured only in one."""

import os
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from saebench.report.style import Plain, plain_text
from saebench.report.tables import Table
from saebench.report.tables.rich_tables import rich_table

WIDE = 100


def console() -> Console:
    """Return the console on standard output; where that is no terminal nothing is too wide."""
    has_width = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(file=sys.stdout, width=None if has_width else WIDE, highlight=False, emoji=False)


def say(*parts: Any) -> None:
    """Print tables and texts without what steers a terminal, and without trailing spaces."""
    out = console()
    for part in parts:
        with out.capture() as captured:
            out.print(Plain(_renderable(part, out.width)))
        lines = captured.get().splitlines()
        sys.stdout.write("".join(line.rstrip() + "\n" for line in lines))


def _renderable(part: Any, width: int) -> Any:
    if isinstance(part, Table):
        return rich_table(part, width=width)
    return Text(plain_text(part)) if isinstance(part, str) else part
