"""``saebench train-sweep``: objectives × sparsities, and the frontier of KL against L0."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from saebench.cli.fit_arguments import add_numbers, add_out, failed, note
from saebench.cli.output import say
from saebench.cli.train_command import OBJECTIVES, SPARSITY, add_place, job_options
from saebench.errors import NonFiniteValue, OptionError, nearest
from saebench.fit.training import Judging, Objective, Sparsity, TrainJob
from saebench.options import Packing

if TYPE_CHECKING:
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
Every SAE of a hook and sparsity begins with one standard SAE, trained on --init-tokens; each
objective goes on from there, the standard one too. In equal time each trains on as many tokens as
it can while the slowest trains on --tokens.

OUT contains the SAEs, sweep.json, frontier.csv, frontier.md, and PNGs where matplotlib is
installed. After an interruption the same command goes on from there.

exit codes: 0 trained and judged, 1 a loss became NaN or diverged, 2 interrupted (run it again),
            4 it could not be done: the message says why
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_place(parser, several=True)
    parser.add_argument("--sparsity", required=True, nargs="+", metavar="KIND:X", help=SPARSITY)
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES),
                        metavar="OBJECTIVE", help="default: all four")  # fmt: skip
    parser.add_argument("--equal", choices=("tokens", "time", "both"), default="tokens",
                        help="what every objective gets the same amount of")  # fmt: skip
    parser.add_argument("--objective-rate", nargs="+", default=[], metavar="OBJECTIVE=X",
                        help="a learning rate of its own for an objective")  # fmt: skip
    add_out(parser, resumes=False)
    parser.add_argument("--judge-dataset", metavar="PATH|NAME",
                        help="the texts to judge on (default: every tenth document, which is then "
                        "not trained on)")  # fmt: skip
    parser.add_argument("--judge-packing", choices=[each.value for each in Packing],
                        default=Judging.packing.value,
                        help="how the judged texts become sequences: documents from their start, "
                        "or cut as the training's rows are")  # fmt: skip
    add_numbers(parser, TrainJob)
    add_numbers(parser, Judging)


def execute(options: argparse.Namespace) -> int:
    """Train, judge, print the frontier."""
    from saebench.fit.training.frontier import sweep
    from saebench.fit.training.training_sweep import TIME, TOKENS, SweepJob
    from saebench.progress import progress_bar
    from saebench.report.tables.fit_tables import frontier_tables

    sparsities = tuple(map(Sparsity.parse, options.sparsity))
    first = {"objective": Objective.STANDARD, "sparsity": sparsities[0], "hook": options.hook[0]}
    base = TrainJob(**job_options(options) | first)
    job = SweepJob(
        base=base,
        hooks=tuple(options.hook),
        objectives=tuple(map(Objective, options.objectives)),
        sparsities=sparsities,
        equal=(TOKENS, TIME) if options.equal == "both" else (options.equal,),
        learning_rates=dict(map(_own_rate, options.objective_rate)),
    )
    packing = Packing(options.judge_packing)
    how = Judging(options.judge_dataset, options.sequences, packing)
    try:
        record = sweep(job, how, progress=progress_bar, say=note)
    except NonFiniteValue as error:
        return failed(error, base.out)
    say(*frontier_tables(record))
    say(f"written: {base.out} (sweep.json, frontier.csv, frontier.md{_drawn(record, base.out)})")
    return 0


def _own_rate(text: str) -> tuple[Objective, float]:
    """Read ``frozen=0.001``."""
    name, _, number = text.partition("=")
    if name not in OBJECTIVES:
        raise OptionError(f"--objective-rate {text}: no such objective{nearest(name, OBJECTIVES)}")
    try:
        return Objective(name), float(number)
    except ValueError:
        raise OptionError(f"--objective-rate {text}: expected {name}=NUMBER") from None


def _drawn(record: "SweepRecord", out: Path) -> str:
    """Draw the frontier where matplotlib is installed; say how many figures were written."""
    from importlib.util import find_spec

    from saebench.report.sections.fit_sections import frontier_figure
    from saebench.report.static_figures import write_views

    if find_spec("matplotlib") is None:
        return ""
    figure = frontier_figure(record)
    written = write_views([(figure, view) for view in figure.views], out)
    return f", {len(written)} figures"
