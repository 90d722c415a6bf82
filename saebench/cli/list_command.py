"""``saebench list``: SAEs, without loading any."""

import argparse
import sys

from saebench.formats.metadata import metadata_of
from saebench.subjects.references import find_subjects
from saebench.text import plain_text

EXAMPLES = """
    saebench list                      the embedded zoo
    saebench list 'runs/*'             every SAE under a directory
    saebench list demo:controls        SAEs that the gate must fail
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("specs", nargs="*", metavar="SPEC", help="as for --sae; default: demo")


def execute(options: argparse.Namespace) -> int:
    """Print id, architecture, size and hook of each SAE."""
    rows: list[tuple[str, ...]] = [("SAE", "architecture", "features", "hook", "")]
    for reference in find_subjects(options.specs or ["demo"]):
        config = reference.config or {}
        hook = str(metadata_of(config).get("hook_name", "?"))
        about = (str(config.get("architecture", "?")), str(config.get("d_sae", "?")), hook)
        rows.append(tuple(map(plain_text, (reference.id, *about, reference.summary))))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        sys.stdout.write("  ".join([*cells, row[4]]).rstrip() + "\n")
    return 0
