"""``saebench repair``: undo feature suppression by fine-tuning without the penalty."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from saebench.cli.output import say
from saebench.errors import NonFiniteValue, OptionError
from saebench.fit.repair.repair_job import SUMMARIES, Method
from saebench.options import Overrides
from saebench.text import plain_lines, plain_text

EXAMPLES = """
    saebench repair demo:l2-shrunken --method scale -o out        no network, no files needed
    saebench repair path/to/sae --method decoder --sae-dataset texts.jsonl -o out
    saebench repair path/to/sae --method scale --sae-model path/to/model \\
        --sae-dataset train.jsonl --judge-dataset heldout.jsonl --tokens 2000000 -o out
    saebench repair path/to/sae --method baseline --sae-dataset texts.jsonl -o out
    saebench repair path/to/sae --method decoder --sae-dataset texts.jsonl -o out --resume
    saebench run --sae out --sae-model path/to/model --sae-dataset heldout.jsonl
"""
CODES = """
methods: {methods}

OUT is an ordinary SAELens directory (SAE.load_from_disk reads it), the recipe in its metadata,
with repair.json beside it: before, after, paired changes with 95% intervals, and the analysis of
the features. While the fit runs, OUT.checkpoint holds its state.

exit codes: 0 repaired and judged, 1 the loss became NaN or infinite (OUT.checkpoint is the last
            good state: --resume goes on from it, with a smaller --learning-rate), 2 interrupted
            (go on with --resume), 4 it could not be done: the message says why
""".format(methods="".join(f"\n  {m.value:18} {about}" for m, about in SUMMARIES.items()))
NUMBERS = (
    ("--tokens", int, 2_000_000, "activations to fit on, at most"),
    ("--max-passes", int, 10, "how often the texts are gone through for them"),
    ("--sequences", int, 512, "how many sequences are judged"),
    ("--batch-tokens", int, 2048, "activations in a step"),
    ("--learning-rate", float, 1e-3, "of Adam; falls to 0 over the last fifth"),
    ("--tolerance", float, 1e-3, "less gain than this share over --patience checks ends the fit"),
    ("--patience", int, 5, "in checks, of which there are twenty"),
    ("--seed", int, 0, "of the shuffling and of the gate's noise"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "sae", metavar="SAE", help="SPEC as for --sae: directory, release:id, demo:NAME"
    )
    parser.add_argument(
        "--method", required=True, choices=[m.value for m in Method], metavar="METHOD",
        help="what is fitted: " + ", ".join(m.value for m in Method),
    )  # fmt: skip
    parser.add_argument("-o", "--out", required=True, metavar="OUT", help="directory to write")
    for name, metavar, about in (
        ("--sae-model", "PATH|NAME", "the host model, where the SAE's metadata is not enough"),
        ("--sae-dataset", "PATH|NAME", "the texts to fit on (the demo brings its own)"),
        ("--judge-dataset", "PATH|NAME", "the texts to judge on (default: every tenth document "
         "of --sae-dataset, which is then not fitted on)"),
        ("--sae-hook", "HOOK", "where the SAE belongs, if its metadata does not say"),
        ("--sae-norm-factor", "N|folded", "what its training scaled activations with"),
        ("--sae-device", "DEVICE", "default: cuda where there is one"),
        ("--sae-dtype", "DTYPE", "of the model: float32, bfloat16, float16, tf32"),
        ("--json", "FILE", "write repair.json there too"),
    ):  # fmt: skip
        parser.add_argument(name, metavar=metavar, help=about)
    parser.add_argument("--sae-training-context", type=int, metavar="N",
                        help="tokens in a row, if the SAE's metadata does not say")  # fmt: skip
    for name, kind, default, about in NUMBERS:
        parser.add_argument(
            name, type=kind, default=default, metavar="N", help=f"{about} (default {default:,})"
        )
    parser.add_argument(
        "--coefficient", type=float, metavar="X",
        help="of the sparsity penalty that the SAE was trained with, in the activations' units "
        "(default: the metadata's, brought to them)",
    )  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="go on from OUT.checkpoint")
    parser.add_argument("--force", action="store_true", help="replace OUT, and start anew")


def execute(options: argparse.Namespace) -> int:
    """Repair, print what changed, and say by the exit code whether it went well."""
    from saebench.fit.repair.repair_job import RepairJob
    from saebench.fit.repair.repair_run import repair
    from saebench.progress import progress_bar
    from saebench.report.tables.fit_tables import repair_lines, repair_table
    from saebench.store.json_files import check_writable, write_repair

    job = RepairJob(**_given(options))
    copy = None if options.json is None else Path(os.path.expanduser(options.json))
    if copy is not None:
        check_writable(copy, option="--json")
    try:
        record = repair(job, progress=progress_bar, say=_note)
    except NonFiniteValue as error:
        sys.stderr.write(f"saebench: {plain_lines(str(error))}{_kept(job.out)}\n")
        return 1
    if copy is not None:
        write_repair(record, copy)
    say(repair_table(record))
    for line in repair_lines(record):
        say(line)
    say(f"written: {job.out} (repair.json beside the weights)")
    return 0


def _given(options: argparse.Namespace) -> dict[str, Any]:
    names = [name.removeprefix("--").replace("-", "_") for name, *_ in NUMBERS]
    out = Path(os.path.expanduser(options.out))
    if out.name in ("", ".."):
        raise OptionError(f"-o {options.out}: name the directory itself")
    return {name: getattr(options, name) for name in names} | {
        "sae": options.sae,
        "out": out,
        "method": Method(options.method),
        "model": options.sae_model,
        "dataset": options.sae_dataset,
        "judged": options.judge_dataset,
        "coefficient": options.coefficient,
        "device": options.sae_device or "auto",
        "dtype": options.sae_dtype or "float32",
        "overrides": Overrides(
            options.sae_hook, options.sae_training_context, norm_factor=options.sae_norm_factor
        ),
        "force": options.force,
        "resume": options.resume,
    }


def _note(line: str) -> None:
    sys.stderr.write(f"note: {plain_text(line)}\n")


def _kept(out: Path) -> str:
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    return f"; the last good state is in {checkpoint}" if checkpoint.exists() else ""
