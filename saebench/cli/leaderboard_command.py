"""``saebench leaderboard``: stored baselines side by side."""

import argparse
import os
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from saebench.cli.output import say
from saebench.cli.stored import add_baselines_option, chosen_baselines, known_facts, shown_path
from saebench.errors import OptionError, nearest
from saebench.records.boards import Board, Leaderboard, Row
from saebench.records.ranking import rank
from saebench.report.standing import RANKED_BY
from saebench.report.tables.board_tables import board_table, published_tables
from saebench.store.atomic import write_file
from saebench.store.environment import is_shipped
from saebench.store.json_files import check_writable
from saebench.store.leaderboard import (
    FILE,
    build,
    dump_leaderboard,
    read_leaderboard,
    write_leaderboard,
)

EXAMPLES = """
    saebench leaderboard show
    saebench leaderboard show --sort fidelity.kl --hook blocks.2.hook_resid_pre
    saebench leaderboard show --sort 'cloze.accuracy_drop[whole]' --architecture '*topk'
    saebench leaderboard show --published
    saebench leaderboard build         after saebench run … --sae-update-baselines
    saebench leaderboard build --html leaderboard.html
    saebench leaderboard check         in CI: 1 where the file is not what build would write
"""
FILTERS = {
    "model": "the model's name, or a pattern such as 'pythia-*'",
    "hook": "the hook, or a pattern such as '*resid*'",
    "architecture": "the SAEs' architecture, or a pattern",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="build|check|show")
    for name, about in (
        ("build", "write leaderboard.json anew from the baselines"),
        ("check", "exit 1 if leaderboard.json is not what build would write"),
        ("show", "print the boards"),
    ):
        add_baselines_option(actions.add_parser(name, help=about, description=about))
    actions.choices["build"].add_argument(
        "--html", metavar="FILE", help="write the leaderboard as a page for a browser, too"
    )
    show = actions.choices["show"]
    show.add_argument(
        "--sort", metavar="METRIC", default=RANKED_BY, help=f"default: {RANKED_BY}; best first"
    )
    show.add_argument("--case", metavar="CASE", help="which case's metric, where several have it")
    show.add_argument("--with", dest="beside", metavar="METRIC", action="append", default=[],
                      help="a further column, repeatable; replaces the usual ones")  # fmt: skip
    for name, about in FILTERS.items():
        show.add_argument(f"--{name}", metavar="PATTERN", help=about)
    show.add_argument("--published", action="store_true", help="show published figures instead")


def execute(options: argparse.Namespace) -> int:
    """Build, check or show."""
    root = chosen_baselines(options)
    return {"build": _build, "check": _check, "show": _show}[options.action](root, options)


def _build(root: Path, options: argparse.Namespace) -> int:
    if is_shipped(root) and options.html:
        return _write_page(read_leaderboard(root / FILE), options.html)
    if is_shipped(root):
        raise OptionError("there is no ./baselines here, and the installed package's are fixed")
    leaderboard = build(root, known_facts())
    path = root / FILE
    write_leaderboard(leaderboard, path)
    saes = {row.key for board in leaderboard.boards for row in board.rows}
    say(f"{shown_path(path)}: {len(saes)} SAEs on {len(leaderboard.boards)} boards")
    return _write_page(leaderboard, options.html) if options.html else 0


def _write_page(leaderboard: Leaderboard, file: str) -> int:
    from saebench.report.page.leaderboard_page import leaderboard_page

    path = Path(os.path.expanduser(file))
    check_writable(path, option="--html")
    write_file(path, leaderboard_page(leaderboard).encode())
    say(f"{shown_path(path)}: a page for a browser")
    return 0


def _check(root: Path, options: argparse.Namespace) -> int:  # noqa: ARG001
    path = root / FILE
    expected = dump_leaderboard(build(root, known_facts()))
    if path.is_file() and path.read_bytes() == expected:
        say(f"{shown_path(path)} is up to date")
        return 0
    state = "is not what the baselines give" if path.is_file() else "is missing"
    say(f"{shown_path(path)} {state}; write it anew: saebench leaderboard build")
    return 1


def _show(root: Path, options: argparse.Namespace) -> int:
    leaderboard = read_leaderboard(root / FILE)
    if options.published:
        return _show_published(leaderboard, options)
    boards = _chosen(leaderboard, options)
    for board, rows in boards:
        ranking = rank(board, options.sort, case=options.case)
        say(board_table(board, ranking, rows=rows, beside=options.beside))
    if leaderboard.published:
        models = ", ".join(sorted({each.model for each in leaderboard.published}))
        say(f"published figures of {models}: saebench leaderboard show --published")
    return 0


def _chosen(
    leaderboard: Leaderboard, options: argparse.Namespace
) -> list[tuple[Board, Sequence[Row]]]:
    """Return the boards that have the metric and match, each with the rows that match.

    Raises:
        OptionError: where nothing is left, naming what there is.
    """
    metrics = {name for board in leaderboard.boards for name in board.metrics}
    for name in (options.sort, *options.beside):
        if name not in metrics:
            raise OptionError(f"unknown metric {name!r}{nearest(name, metrics)}")
    boards = [
        board for board in leaderboard.boards if {options.sort, *options.beside} <= {*board.metrics}
    ]
    boards = _matching(boards, "model", options.model, lambda board: board.model.name)
    boards = _matching(boards, "hook", options.hook, lambda board: board.hook)
    pattern = options.architecture
    known = {row.architecture for board in boards for row in board.rows}
    if pattern and not any(fnmatchcase(name, pattern) for name in known):
        raise OptionError(f"--architecture {pattern}: no such SAE{nearest(pattern, known)}")
    pairs = [
        (board, [r for r in board.rows if not pattern or fnmatchcase(r.architecture, pattern)])
        for board in boards
    ]
    return [(board, rows) for board, rows in pairs if rows]


def _matching(
    boards: list[Board], option: str, pattern: str | None, name_of: Callable[[Board], str]
) -> list[Board]:
    if pattern is None:
        return boards
    chosen = [board for board in boards if fnmatchcase(name_of(board), pattern)]
    if not chosen:
        known = {name_of(board) for board in boards}
        raise OptionError(f"--{option} {pattern}: no such board{nearest(pattern, known)}")
    return chosen


def _show_published(leaderboard: Leaderboard, options: argparse.Namespace) -> int:
    pattern = options.model or "*"
    chosen = [each for each in leaderboard.published if fnmatchcase(each.model, pattern)]
    if not chosen:
        known = {each.model for each in leaderboard.published}
        raise OptionError(f"--model {pattern}: nothing published{nearest(pattern, known)}")
    say(*published_tables(chosen))
    return 0
