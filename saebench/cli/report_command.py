"""``saebench report``: result files as one page for a browser, or as figures for papers."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from saebench.cli.output import say
from saebench.cli.show_command import only
from saebench.cli.stored import add_baselines_option, chosen_baselines, shown_path
from saebench.errors import OptionError
from saebench.records.boards import Leaderboard
from saebench.records.run import Run
from saebench.report.material import joined_runs
from saebench.store.atomic import write_file
from saebench.store.json_files import check_writable, read_repair, read_run, read_sweep
from saebench.store.leaderboard import FILE, read_leaderboard

if TYPE_CHECKING:
    from saebench.compare.comparison import Comparison

EXAMPLES = """
    saebench report run.json -o report.html
    saebench report before.json after.json -o report.html     what got worse comes first
    saebench report sweep-*.json -o sweep.html                several SAEs on one page
    saebench report run.json --repair out/repair.json -o report.html
    saebench report run.json --training sweep/sweep.json -o report.html
    saebench report run.json --sae l2-topk -o topk.html
    saebench report run.json --figures figures --format svg   for papers; needs matplotlib
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    about = "what --sae-json wrote; several are compared with the first"
    parser.add_argument("files", metavar="RUN.json", nargs="+", help=about)
    parser.add_argument("-o", "--output", metavar="FILE", help="the page (default: report.html)")
    parser.add_argument("--figures", metavar="DIR", help="write the main figures here instead")
    parser.add_argument("--format", choices=("png", "svg", "pdf"), default="png", help="of figures")
    parser.add_argument("--sae", metavar="ID", action="append", help="only this one, repeatable")
    parser.add_argument("--metric", metavar="METRIC", action="append",
                        help="compare this one, repeatable (default: the headlines)")  # fmt: skip
    parser.add_argument("--repair", metavar="FILE", action="append", default=[],
                        help="add the repair of a repair.json, repeatable")  # fmt: skip
    parser.add_argument("--training", metavar="FILE", action="append", default=[],
                        help="add the sweep of a sweep.json, repeatable")  # fmt: skip
    add_baselines_option(parser)


def execute(options: argparse.Namespace) -> int:
    """Write the page, or the figures; both where both were asked for."""
    paths = [Path(os.path.expanduser(file)) for file in options.files]
    runs = [read_run(path) for path in paths]
    run = only(joined_runs(runs, _names(options.files)), options.sae or ())
    leaderboard = _leaderboard(options)
    if options.figures:
        _write_figures(run, leaderboard, options)
    if options.output or not options.figures:
        _write_page(run, leaderboard, _comparisons(paths, runs, options), options)
    return 0


def _write_page(
    run: Run,
    leaderboard: Leaderboard | None,
    comparisons: Sequence["Comparison"],
    options: argparse.Namespace,
) -> None:
    from saebench.report.page.run_page import run_page

    path = Path(os.path.expanduser(options.output or "report.html"))
    check_writable(path, option="--output")
    repairs = [read_repair(Path(os.path.expanduser(file))) for file in options.repair]
    sweeps = [read_sweep(Path(os.path.expanduser(file))) for file in options.training]
    page = run_page(
        run, leaderboard=leaderboard, comparisons=comparisons, repairs=repairs, sweeps=sweeps
    ).encode()
    write_file(path, page)
    say(f"{shown_path(path)}: {len(run.saes)} SAEs, {len(page) / 1e6:.1f} MB")


def _write_figures(run: Run, leaderboard: Leaderboard | None, options: argparse.Namespace) -> None:
    from saebench.report.static_figures import write_figures

    directory = Path(os.path.expanduser(options.figures))
    written = write_figures(run, directory, leaderboard=leaderboard, kind=options.format)
    say(f"{shown_path(directory)}: {len(written)} figures")


def _comparisons(
    paths: Sequence[Path], runs: Sequence[Run], options: argparse.Namespace
) -> list["Comparison"]:
    """Return the comparisons of each later run's SAEs with the first run's of the same name."""
    if len(runs) < 2:
        return []
    from saebench.cli.stored import known_specs
    from saebench.compare.comparison import compare
    from saebench.compare.sides import sides_of_result, with_stored_sums

    specs = known_specs()
    unknown = [name for name in options.metric or () if name not in specs]
    if unknown:
        raise OptionError(f"--metric {unknown[0]}: unknown metric")
    root = chosen_baselines(options)
    by_run = [
        {id: with_stored_sums(side, root) for id, side in sides_of_result(path, run).items()}
        for path, run in zip(paths, runs, strict=True)
    ]
    first, *others = by_run
    pairs = []
    for sides in others:
        if len(first) == len(sides) == 1:
            pairs.append((*first.values(), *sides.values()))
        pairs += [(first[id], sides[id]) for id in first if id in sides and len(first) > 1]
    return [compare(a, b, specs=specs, metrics=tuple(options.metric or ())) for a, b in pairs]


def _leaderboard(options: argparse.Namespace) -> Leaderboard | None:
    path = chosen_baselines(options) / FILE
    return read_leaderboard(path) if path.is_file() else None


def _names(files: Sequence[str]) -> list[str]:
    """Return names that differ: the files' own, or with their directories where those are alike."""
    stems = [Path(file).stem for file in files]
    return stems if len(set(stems)) == len(stems) else list(files)
