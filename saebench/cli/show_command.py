"""``saebench show``: a result file's tables again."""

import argparse
import os
from dataclasses import replace
from pathlib import Path

from saebench.cli.output import console, say
from saebench.errors import OptionError, nearest
from saebench.records.run import Run
from saebench.records.verdict import Verdict
from saebench.report.markdown import NOT_PASSED
from saebench.report.terminal import data_lines, sentences, tables, unjudged_line
from saebench.store.json_files import read_run

EXAMPLES = """
    saebench show run.json
    saebench show run.json --sae l2-topk
"""
EXPLAINED = (*NOT_PASSED, Verdict.SKIPPED)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("file", metavar="RUN.json", help="what --sae-json wrote")
    parser.add_argument("--sae", metavar="ID", action="append", help="only this one, repeatable")


def execute(options: argparse.Namespace) -> int:
    """Print the tables, what did not pass and why, the data, model and version."""
    run = only(read_run(Path(os.path.expanduser(options.file))), options.sae or ())
    say(tables(run, width=console().width))
    for sentence in sentences(run, *EXPLAINED):
        say(sentence)
    if left_out := unjudged_line(run):
        say(f"{Verdict.INCOMPLETE}: {left_out}")
    for line in (*data_lines(run), _about(run)):
        say(line)
    return 0


def only(run: Run, saes: "list[str] | tuple[str, ...]") -> Run:
    """Return the run of these SAEs alone; all of them where none is named.

    Raises:
        OptionError: for an SAE that the run does not have.
    """
    known = [sae.id for sae in run.saes]
    for id in saes:
        if id not in known:
            raise OptionError(f"--sae {id}: not in this result file{nearest(id, known)}")
    if not saes:
        return run
    unjudged = run.run.unjudged and tuple(u for u in run.run.unjudged if u.sae in saes)
    return replace(
        run,
        run=replace(run.run, unjudged=unjudged),
        saes=tuple(sae for sae in run.saes if sae.id in saes),
        cases=tuple(case for case in run.cases if set(case.about) <= set(saes)),
    )


def _about(run: Run) -> str:
    models = ", ".join(f"{m.name} ({m.dtype}, {m.device})" for m in run.models)
    unfinished = "; the run was not finished" if run.run.was_interrupted else ""
    return f"{models}; saebench {run.harness.get('version', '?')}, {run.run.started}{unfinished}"
