"""``saebench compare``: two SAEs side by side."""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

from saebench.cli.output import say
from saebench.cli.stored import add_baselines_option, chosen_baselines, known_specs, stored_baseline
from saebench.compare.comparison import HEADLINES, Comparison, Side, compare
from saebench.compare.sides import sides_of_file
from saebench.errors import OptionError, nearest
from saebench.properties.base import MetricSpec
from saebench.report.tables.board_tables import comparison_tables

SEPARATOR = "::"
EXAMPLES = """
    saebench compare l2-standard l2-topk               two baselines, pair by pair
    saebench compare old.json new.json                 two result files, SAE by SAE
    saebench compare run.json::first run.json::second  two SAEs of one result file
    saebench compare l2-topk run.json::l2-topk         a baseline and a new run
    saebench compare l2-standard l2-topk --metric fidelity.kl
"""
CODES = """
exit codes: 0 B is not significantly worse than A, 1 it is worse in something, 4 something could
            not be compared (other tokens, another model, measured for one alone, no such file)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    about = "a baseline's name or file, or a result file; FILE::SAE for one SAE of several"
    parser.add_argument("first", metavar="A", help=about)
    parser.add_argument("second", metavar="B", help="likewise; compared with A")
    parser.add_argument(
        "--metric",
        action="append",
        metavar="METRIC",
        help="compare this one, repeatable (default: the headlines of each property)",
    )
    parser.add_argument("--all", action="store_true", help="compare every metric")
    add_baselines_option(parser)


def execute(options: argparse.Namespace) -> int:
    """Compare, print, and say by the exit code whether the second is worse."""
    specs = known_specs()
    metrics = _metrics(options, specs)
    first, second = (_sides(spec, options) for spec in (options.first, options.second))
    comparisons = [
        compare(one, two, specs=specs, metrics=metrics)
        for one, two in _matched(first, second, options)
    ]
    say(*comparison_tables(comparisons))
    return _exit_code(comparisons)


def _exit_code(comparisons: list[Comparison]) -> int:
    """Return 1 where something is worse, 0 only where everything could be compared.

    Raises:
        OptionError: naming the first that could not be compared.
    """
    if any(comparison.is_worse for comparison in comparisons):
        return 1
    reasons = [pair for comparison in comparisons for pair in comparison.incomparable]
    if reasons:
        raise OptionError(f"not comparable: {reasons[0][0]}: {reasons[0][1]}")
    if not any(comparison.differences for comparison in comparisons):
        raise OptionError("nothing to compare: the two have none of these metrics")
    return 0


def _metrics(options: argparse.Namespace, specs: Mapping[str, MetricSpec]) -> tuple[str, ...]:
    if options.all:
        return tuple(specs)
    for name in options.metric or ():
        if name not in specs:
            raise OptionError(f"--metric {name}: unknown metric{nearest(name, specs)}")
    return tuple(options.metric or HEADLINES)


def _sides(spec: str, options: argparse.Namespace) -> dict[str, Side]:
    """Return the SAEs that an argument names, by id."""
    file, _, sae = spec.partition(SEPARATOR)
    path = Path(os.path.expanduser(file))
    if not path.is_file():
        path = stored_baseline(file, chosen_baselines(options))
    sides = sides_of_file(path)
    if not sae:
        return sides
    if sae not in sides:
        raise OptionError(f"{spec}: no SAE {sae!r} in it{nearest(sae, sides)}")
    return {sae: sides[sae]}


def _matched(
    first: dict[str, Side], second: dict[str, Side], options: argparse.Namespace
) -> list[tuple[Side, Side]]:
    """Return the pairs: the two SAEs where there is one each, else those of one id."""
    if len(first) == len(second) == 1:
        return list(zip(first.values(), second.values(), strict=True))
    both = [id for id in first if id in second]
    if both:
        return [(first[id], second[id]) for id in both]
    saes = f"{', '.join(first)} and {', '.join(second)}"
    raise OptionError(
        f"{options.first} and {options.second} have no SAE in common ({saes}); say which: "
        f"FILE{SEPARATOR}SAE"
    )
