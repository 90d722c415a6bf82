"""``saebench doctor``: is everything there that a run needs?"""

import argparse
import sys
from collections.abc import Sequence

from saebench.cli.checkup import Finding, State, checkup
from saebench.shown import plain_text

EXAMPLES = """
    saebench doctor
    saebench doctor --quiet            only what is odd; nothing where all is well
"""
CODES = """
exit codes: 0 a run can start, 1 something that it needs is missing
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--quiet", action="store_true", help="show only what is odd")


def execute(options: argparse.Namespace) -> int:
    """Print the findings, plainly, as rich may be what is missing; 1 where something needed is."""
    findings = list(checkup())
    shown = [each for each in findings if each.state is not State.OK or not options.quiet]
    for line in _lines(shown):
        sys.stdout.write(plain_text(line) + "\n")
    missing = sum(each.state is State.MISSING for each in findings)
    if missing:
        sys.stdout.write(f"\n{missing} of {len(findings)} missing: a run cannot start\n")
    elif not options.quiet:
        sys.stdout.write("\na run can start: saebench run --sae demo:l2-topk --sae-sequences 64\n")
    return int(missing > 0)


def _lines(findings: Sequence[Finding]) -> list[str]:
    width = max((len(each.about) for each in findings), default=0)
    state = max(map(len, State))
    lines = []
    for each in findings:
        lines.append(f"{each.state.value.ljust(state)}  {each.about.ljust(width)}  {each.found}")
        if each.remedy and each.state is not State.OK:
            lines.append(" " * (state + width + 4) + f"→ {each.remedy}")
    return lines
