"""``saebench list``: SAEs, without loading any, or every metric with the page that defines it."""

import argparse
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from importlib.util import find_spec

from saebench.errors import OptionError
from saebench.formats.metadata import metadata_of
from saebench.subjects.references import find_subjects
from saebench.text import plain_text

EXAMPLES = """
    saebench list                      the embedded zoo
    saebench list 'runs/*'             every SAE under a directory
    saebench list demo:controls        SAEs that the gate must fail
    saebench list --metrics            every metric: unit, what is best, where it is defined
    saebench list --metrics 'kl_gap.ratio*'
"""
METRICS_PAGE = "docs/metrics.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("specs", nargs="*", metavar="SPEC", help="as for --sae; default: demo")
    parser.add_argument(
        "--metrics",
        action="store_true",
        help=f"list metrics instead: all, or those that a shell pattern fits; {METRICS_PAGE} "
        "defines each",
    )


def execute(options: argparse.Namespace) -> int:
    """Print what was asked for as a table, its last column as wide as it is."""
    rows = metric_rows(options.specs) if options.metrics else sae_rows(options.specs)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for *cells, last in rows:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=False)]
        sys.stdout.write("  ".join([*padded, last]).rstrip() + "\n")
    return 0


def sae_rows(specs: Sequence[str]) -> list[tuple[str, ...]]:
    """Return id, architecture, size, hook and summary of each SAE, below a header."""
    rows: list[tuple[str, ...]] = [("SAE", "architecture", "features", "hook", "")]
    for reference in find_subjects(specs or ["demo"]):
        config = reference.config or {}
        hook = str(metadata_of(config).get("hook_name", "?"))
        about = (str(config.get("architecture", "?")), str(config.get("d_sae", "?")), hook)
        rows.append(tuple(map(plain_text, (reference.id, *about, reference.summary))))
    return rows


def metric_rows(patterns: Sequence[str]) -> list[tuple[str, ...]]:
    """Return name, unit, best value, version and page of each metric, below a header.

    A metric of another distribution has no page here.

    Raises:
        OptionError: for a pattern that fits no metric.
    """
    from saebench.properties import properties

    rows: list[tuple[str, ...]] = [("metric", "unit", "best", "version", "defined in")]
    for name, declared in properties().items():
        page = f"{METRICS_PAGE}#{name}" if find_spec(f"saebench.properties.{name}") else ""
        for spec in declared.metrics:
            if patterns and not any(_fits(spec.name, pattern) for pattern in patterns):
                continue
            best = spec.direction.value if spec.target is None else f"{spec.target:g}"
            rows.append((spec.name, spec.unit, best, f"v{spec.version}", page))
    if len(rows) == 1:
        raise OptionError(
            f"no metric fits {', '.join(patterns)}; saebench list --metrics lists all"
        )
    return rows


def _fits(name: str, pattern: str) -> bool:
    """Return whether a metric is meant; a bracket in a metric's name is no character class."""
    return name == pattern or fnmatchcase(name, pattern.replace("[", "[[]"))
