"""``saebench train``: an SAE on activations, or on the whole model's loss."""

import argparse
from pathlib import Path
from typing import Any

from saebench.cli.fit_arguments import (
    add_device,
    add_numbers,
    add_out,
    failed,
    note,
    values_for,
)
from saebench.cli.output import say
from saebench.errors import NonFiniteValue
from saebench.fit.training import DEMO, SIDES, SUMMARIES, Loss, Objective, Sparsity, TrainJob

EXAMPLES = """
    saebench train --objective frozen --hook blocks.1.hook_resid_pre --sparsity topk:16 \\
        --tokens 200000 -o out                              the embedded model, no files needed
    saebench train --objective standard --model path/to/model --dataset train.jsonl \\
        --hook blocks.2.hook_resid_pre --sparsity l1:1.5 --tokens 2000000 -o start
    saebench train --objective intrusive --init start --model path/to/model \\
        --dataset train.jsonl --hook blocks.2.hook_resid_pre --sparsity l1:1.5/0.02 -o out
    saebench run --sae out --sae-model path/to/model --sae-dataset heldout.jsonl
"""
CODES = """
objectives:{objectives}

Half-layers are the attention or MLP before and after the SAE. OUT is an ordinary SAELens directory
that also contains training.json, log.csv and, for intrusive and non-intrusive, the trained
half-layers, host_patch.safetensors, which saebench run --sae-host-patch puts into the model.
Without --init the others begin with a standard SAE, which is trained first and stays as OUT.init.
While it trains, OUT.checkpoint stores the state.

exit codes: 0 trained, 1 the loss became NaN or diverged (OUT.checkpoint is the last good state),
            2 interrupted (go on with --resume), 4 it could not be done: the message says why
""".format(objectives="".join(f"\n  {o.value:14} {about}" for o, about in SUMMARIES.items()))
OBJECTIVES = tuple(objective.value for objective in SUMMARIES)
SPARSITY = "l1:COEFFICIENT[/COEFFICIENT added to the whole model's loss], topk:K, batchtopk:K"
CHECKPOINTING = {"auto": None, "always": True, "never": False}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--objective", required=True, choices=OBJECTIVES, metavar="OBJECTIVE",
                        help=", ".join(OBJECTIVES))  # fmt: skip
    parser.add_argument("--sparsity", required=True, metavar="KIND:X", help=SPARSITY)
    add_place(parser)
    add_out(parser)
    parser.add_argument("--init", metavar="SAE", help="an SAE to begin from, 'identity', or "
                        "'random' (default: a standard SAE, trained first)")  # fmt: skip
    add_numbers(parser, TrainJob)
    parser.add_argument("--judge-dataset", dest="judged", metavar="PATH|NAME",
                        help="texts that it will be judged on: refused where the training's "
                        "contain any of them")  # fmt: skip
    parser.add_argument("--tensorboard", metavar="DIR", type=Path,
                        help="log there too (needs pytest-saebench[tensorboard])")  # fmt: skip


def add_place(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Declare the model, the SAE's hook, the texts and the loss."""
    parser.add_argument("--hook", required=True, metavar="HOOK", nargs="+" if several else None,
                        help="where the SAE belongs")  # fmt: skip
    parser.add_argument("--loss", choices=[each.value for each in Loss], default=TrainJob.loss,
                        help=f"of the model's output (default: {TrainJob.loss}, to the original)",
                        )  # fmt: skip
    parser.add_argument("--model", default=DEMO, metavar="PATH|NAME",
                        help="the host model (default: the embedded one)")  # fmt: skip
    parser.add_argument("--dataset", metavar="PATH|NAME", help="the texts to train on")
    parser.add_argument("--half-layers", default="both", choices=("both", *SIDES),
                        help="which are trained too, in intrusive objectives")  # fmt: skip
    parser.add_argument("--gradient-checkpointing", choices=tuple(CHECKPOINTING), default="auto",
                        help="of the later blocks, to save memory")  # fmt: skip
    add_device(parser, dtypes="float32, bfloat16, tf32")


def execute(options: argparse.Namespace) -> int:
    """Train, and say by the exit code whether it went well."""
    from saebench.fit.training.training_run import train
    from saebench.progress import progress_bar

    given = job_options(options) | {
        "objective": Objective(options.objective), "sparsity": Sparsity.parse(options.sparsity)
    }  # fmt: skip
    job = TrainJob(**given)
    try:
        record = train(job, progress=progress_bar, say=note)
    except NonFiniteValue as error:
        return failed(error, job.out)
    course = record.course
    why = "converged" if course.converged else "all tokens used"
    say(
        f"{job.objective}, {record.recipe.sparsity}: {course.tokens:,} tokens of {course.texts} "
        f"({course.passes:.1f} passes; {why}) in {course.duration_s:.0f} s"
    )
    say(
        f"validation loss: {course.checks[0].check:.4g} at first, {course.checks[-1].check:.4g} "
        f"at the end; l0 {course.l0:.1f}; {course.dead:,} of {record.sae.d_sae:,} features dead"
    )
    if course.host_moved is not None:
        say(f"half-layers changed by {course.host_moved:.1%} of their norm: host_patch.safetensors")
    say(f"written: {job.out} (the SAE, training.json, log.csv)")
    return 0


def job_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of a training, all but its objective and its sparsity."""
    sides = SIDES if options.half_layers == "both" else (options.half_layers,)
    return values_for(TrainJob, options) | {
        "loss": Loss(options.loss),
        "half_layers": sides,
        "checkpointing": CHECKPOINTING[options.gradient_checkpointing],
    }
