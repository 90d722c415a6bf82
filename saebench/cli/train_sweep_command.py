"""``saebench train-sweep``: objectives × sparsities, and the frontier of KL against L0."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from saebench.cli.output import say
from saebench.cli.train_command import (
    NUMBERS,
    OBJECTIVES,
    add_numbers,
    add_place,
    names_of,
    note,
    out_of,
    place_of,
)
from saebench.errors import NonFiniteValue, OptionError, nearest

if TYPE_CHECKING:
    from saebench.fit.training.objectives import Objective
    from saebench.records.sweep import SweepRecord

EXAMPLES = """
    saebench train-sweep --hook blocks.1.hook_resid_pre --sparsity topk:4 topk:8 topk:16 \\
        --tokens 100000 -o sweep                          the embedded model, no files needed
    saebench train-sweep --model path/to/model --dataset train.jsonl \\
        --judge-dataset heldout.jsonl --hook blocks.0.hook_resid_mid blocks.2.hook_resid_pre \\
        --sparsity l1:0.5/0.01 l1:2/0.04 --objectives standard frozen --equal both -o sweep
    saebench report run.json --training sweep/sweep.json -o report.html
"""
CODES = """
Every SAE of a hook and sparsity is begun from one standard SAE, trained on --init-tokens; each
objective goes on from there, the standard one too. In equal time each gets as many tokens as it
manages while the slowest does --tokens.

OUT holds the SAEs, sweep.json, frontier.csv, frontier.md, and PNGs where matplotlib is installed.
Run again after a kill, it goes on where it was.

exit codes: 0 trained and judged, 1 a loss became NaN or diverged, 2 interrupted (run it again),
            4 it could not be done: the message says why
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_place(parser, several=True)
    parser.add_argument("--sparsity", required=True, nargs="+", metavar="KIND:X",
                        help="l1:COEFFICIENT[/COEFFICIENT beside the whole model's loss], topk:K, "
                        "batchtopk:K")  # fmt: skip
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES),
                        metavar="OBJECTIVE", help="default: all four")  # fmt: skip
    parser.add_argument("--equal", choices=("tokens", "time", "both"), default="tokens",
                        help="what the objectives are given the same of")  # fmt: skip
    parser.add_argument("--objective-rate", nargs="+", default=[], metavar="OBJECTIVE=X",
                        help="a learning rate of its own for an objective")  # fmt: skip
    parser.add_argument("-o", "--out", required=True, metavar="OUT", help="directory to write")
    parser.add_argument("--init-tokens", type=int, metavar="N",
                        help="what the standard SAE that all begin with is trained on "
                        "(default: as --tokens)")  # fmt: skip
    parser.add_argument("--judge-dataset", metavar="PATH|NAME",
                        help="the texts to judge on (default: every tenth document, which is then "
                        "not trained on)")  # fmt: skip
    parser.add_argument("--sequences", type=int, default=256, metavar="N",
                        help="how many sequences are judged (default 256)")  # fmt: skip
    parser.add_argument("--judge-packing", choices=("documents", "packed"), default="documents",
                        help="how the judged texts become sequences: documents from their start, "
                        "or cut as the training's rows are")  # fmt: skip
    add_numbers(parser, NUMBERS)


def execute(options: argparse.Namespace) -> int:
    """Train, judge, print the frontier."""
    from saebench.fit.training.objectives import Objective, Sparsity
    from saebench.fit.training.points import sweep
    from saebench.fit.training.request import Judging, TrainJob
    from saebench.fit.training.training_sweep import TIME, TOKENS, SweepJob
    from saebench.options import Packing
    from saebench.progress import progress_bar
    from saebench.report.tables.fit_tables import frontier_tables

    sparsities = tuple(map(Sparsity.parse, options.sparsity))
    place = place_of(options)
    base = TrainJob(
        objective=Objective.STANDARD, sparsity=sparsities[0], out=out_of(options.out),
        **place | {"hook": options.hook[0]},
        **{name: getattr(options, name) for name in names_of(NUMBERS)},
    )  # fmt: skip
    equal = (TOKENS, TIME) if options.equal == "both" else (options.equal,)
    job = SweepJob(
        base=base,
        hooks=tuple(options.hook),
        objectives=tuple(map(Objective, options.objectives)),
        sparsities=sparsities,
        init_tokens=base.tokens if options.init_tokens is None else options.init_tokens,
        equal=equal,
        learning_rates=dict(map(_own_rate, options.objective_rate)),
    )
    judged = options.judge_dataset
    packing = Packing(options.judge_packing)
    how = Judging(judged, options.sequences, packing, options.seed)
    try:
        record = sweep(job, how, progress=progress_bar, say=note)
    except NonFiniteValue as error:
        sys.stderr.write(f"saebench: {error}\n")
        return 1
    say(*frontier_tables(record))
    say(f"written: {base.out} (sweep.json, frontier.csv, frontier.md{_drawn(record, base.out)})")
    return 0


def _own_rate(text: str) -> "tuple[Objective, float]":
    """Read ``frozen=0.001``."""
    from saebench.fit.training.objectives import Objective

    name, _, number = text.partition("=")
    if name not in OBJECTIVES:
        raise OptionError(f"--objective-rate {text}: no such objective{nearest(name, OBJECTIVES)}")
    try:
        return Objective(name), float(number)
    except ValueError:
        raise OptionError(f"--objective-rate {text}: expected {name}=NUMBER") from None


def _drawn(record: "SweepRecord", out: Path) -> str:
    """Draw the frontier where matplotlib is there; say what was written."""
    from importlib.util import find_spec

    from saebench.report.sections.fit_sections import frontier_figure
    from saebench.report.static_figures import write_views

    if find_spec("matplotlib") is None:
        return ""
    figure = frontier_figure(record)
    written = write_views([(figure, view) for view in figure.views], out)
    return f", {len(written)} figures"
