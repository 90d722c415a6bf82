"""``saebench train``: an SAE on activations, or on the whole model's loss."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from saebench.cli.output import say
from saebench.errors import NonFiniteValue, OptionError

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
objectives:
  standard       the activation's squared error: SAELens' own training
  frozen         the whole model's loss with the SAE in it; the model stays as it is
  intrusive      the same, and the half-layers beside the SAE are trained too
  non-intrusive  the same, and the changed model without the SAE is held to the original too

OUT is an ordinary SAELens directory, with training.json and log.csv beside the weights, and for
intrusive and non-intrusive host_patch.safetensors, which saebench run puts into the model. Without
--init the others begin with a standard SAE, which is trained first and kept as OUT.init. While it
trains, OUT.checkpoint holds the state.

exit codes: 0 trained, 1 the loss became NaN or diverged (OUT.checkpoint is the last good state),
            2 interrupted (go on with --resume), 4 it could not be done: the message says why
"""
OBJECTIVES = ("standard", "frozen", "intrusive", "non-intrusive")
NUMBERS = (
    ("--expansion", int, 8, "features for each component of the activation"),
    ("--tokens", int, 2_000_000, "to train on, at most"),
    ("--context", int, 128, "tokens in a row"),
    ("--batch-rows", int, 16, "rows in a step"),
    ("--max-passes", int, 50, "how often the texts are gone through, at most"),
    ("--learning-rate", float, 1e-3, "of AdamW; falls to 0 over the last fifth"),
    ("--warm-up", float, 0.05, "share of the tokens over which it, and L1's coefficient, rise"),
    ("--weight-decay", float, 0.0, "AdamW's"),
    ("--clip", float, 1.0, "largest norm of a gradient of the whole model's loss; 0 leaves it"),
    ("--without-sae", float, 1.0, "weight of the changed model's own loss, for non-intrusive"),
    ("--tolerance", float, 0.0, "less gain than this share over --patience checks ends it"),
    ("--patience", int, 5, "in checks, of which there are twenty"),
    ("--seed", int, 0, "of the weights and of the shuffling"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--objective", required=True, choices=OBJECTIVES, metavar="OBJECTIVE",
                        help=", ".join(OBJECTIVES))  # fmt: skip
    parser.add_argument("--sparsity", required=True, metavar="KIND:X",
                        help="l1:COEFFICIENT[/COEFFICIENT beside the whole model's loss], topk:K, "
                        "batchtopk:K")  # fmt: skip
    add_place(parser)
    parser.add_argument("-o", "--out", required=True, metavar="OUT", help="directory to write")
    parser.add_argument("--init", metavar="SAE", help="an SAE to begin from, 'identity', or "
                        "'random' (default: a standard SAE, trained first)")  # fmt: skip
    parser.add_argument("--init-tokens", type=int, metavar="N",
                        help="to train that one on (default: as --tokens)")  # fmt: skip
    add_numbers(parser, NUMBERS)
    parser.add_argument("--judge-dataset", metavar="PATH|NAME",
                        help="texts that it will be judged on: refused where those of the "
                        "training hold any of them")  # fmt: skip
    parser.add_argument(
        "--tensorboard", metavar="DIR", help="log there too (needs pytest-saebench[tensorboard])"
    )
    parser.add_argument("--resume", action="store_true", help="go on from OUT.checkpoint")
    parser.add_argument("--force", action="store_true", help="replace OUT, and start anew")


def add_place(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Declare what is trained where, and on what."""
    parser.add_argument("--hook", required=True, metavar="HOOK", nargs="+" if several else None,
                        help="where the SAE belongs")  # fmt: skip
    parser.add_argument("--loss", default="kl", choices=("kl", "next-token"),
                        help="of the model's output (default: kl, to the original)")  # fmt: skip
    parser.add_argument("--model", default="demo", metavar="PATH|NAME",
                        help="the host model (default: the embedded one)")  # fmt: skip
    parser.add_argument("--dataset", metavar="PATH|NAME", help="the texts to train on")
    parser.add_argument("--half-layers", default="both", choices=("both", "before", "after"),
                        help="which are trained too, in intrusive objectives")  # fmt: skip
    parser.add_argument("--gradient-checkpointing", choices=("auto", "always", "never"),
                        default="auto", help="of the later blocks, to save memory")  # fmt: skip
    parser.add_argument("--sae-device", metavar="DEVICE", help="default: cuda where there is one")
    parser.add_argument(
        "--sae-dtype", metavar="DTYPE", help="of the model: float32, bfloat16, tf32"
    )


def add_numbers(parser: argparse.ArgumentParser, numbers: Any) -> None:
    """Declare options that are numbers."""
    for name, kind, default, about in numbers:
        parser.add_argument(
            name, type=kind, default=default, metavar="N", help=f"{about} (default {default:,})"
        )


def execute(options: argparse.Namespace) -> int:
    """Train, and say by the exit code whether it went well."""
    from saebench.fit.training.objectives import Objective, Sparsity
    from saebench.fit.training.request import TrainJob
    from saebench.fit.training.training_job import train
    from saebench.progress import progress_bar

    out = out_of(options.out)
    job = TrainJob(
        objective=Objective(options.objective), sparsity=Sparsity.parse(options.sparsity), out=out,
        init=options.init, init_tokens=options.init_tokens, judged=options.judge_dataset,
        tensorboard=None if options.tensorboard is None else Path(options.tensorboard),
        resume=options.resume, force=options.force, **place_of(options),
        **{name: getattr(options, name) for name in names_of(NUMBERS)},
    )  # fmt: skip
    try:
        record = train(job, progress=progress_bar, say=note)
    except NonFiniteValue as error:
        begun = (out.with_name(f"{out.name}{which}.checkpoint") for which in ("", ".init"))
        kept = "".join(f"; the last good state is in {file}" for file in begun if file.exists())
        sys.stderr.write(f"saebench: {error}{kept}\n")
        return 1
    course = record.course
    why = "converged" if course.converged else "all tokens used"
    say(
        f"{job.objective}, {record.recipe.sparsity}: {course.tokens:,} tokens of {course.texts} "
        f"({course.passes:.1f} passes; {why}) in {course.duration_s:.0f} s"
    )
    say(
        f"loss on held rows: {course.checks[0].check:.4g} at first, {course.checks[-1].check:.4g} "
        f"at the end; l0 {course.l0:.1f}; {course.dead:,} of {record.sae.d_sae:,} features dead"
    )
    if course.host_moved is not None:
        say(f"half-layers moved by {course.host_moved:.1%} of their norm: host_patch.safetensors")
    say(f"written: {job.out} (training.json and log.csv beside the weights)")
    return 0


def names_of(numbers: Any) -> list[str]:
    """Return the attributes that options are read into."""
    return [name.removeprefix("--").replace("-", "_") for name, *_ in numbers]


def place_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return what is trained where, and on what."""
    from saebench.fit.training.objectives import Loss

    both = options.half_layers == "both"
    return {
        "hook": options.hook,
        "loss": Loss(options.loss),
        "model": options.model,
        "dataset": options.dataset,
        "half_layers": ("before", "after") if both else (options.half_layers,),
        "checkpointing": {"auto": None, "always": True, "never": False}[
            options.gradient_checkpointing
        ],
        "device": options.sae_device or "auto",
        "dtype": options.sae_dtype or "float32",
    }


def out_of(text: str) -> Path:
    """Return the directory that -o names.

    Raises:
        OptionError: where it names none.
    """
    out = Path(os.path.expanduser(text))
    if out.name in ("", ".."):
        raise OptionError(f"-o {text}: name the directory itself")
    return out


def note(line: str) -> None:
    """Write a note to the terminal."""
    sys.stderr.write(f"note: {line}\n")
