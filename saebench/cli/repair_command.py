"""``saebench repair``: undo feature suppression by fine-tuning without the penalty."""

import argparse
import os
from pathlib import Path

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
from saebench.fit.repair import SUMMARIES, Method, RepairJob
from saebench.options import Overrides

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
methods:{methods}

OUT is an ordinary SAELens directory (SAE.load_from_disk reads it), with the recipe in its metadata.
Its repair.json contains the metrics before and after, their paired changes with 95% intervals, and
the analysis of the features. While the fit runs, OUT.checkpoint stores its state.

exit codes: 0 repaired and judged, 1 the loss became NaN or infinite (OUT.checkpoint is the last
            good state: --resume goes on from it, with a smaller --learning-rate), 2 interrupted
            (go on with --resume), 4 it could not be done: the message says why
""".format(methods="".join(f"\n  {m.value:18} {about}" for m, about in SUMMARIES.items()))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "sae", metavar="SAE", help="SPEC as for --sae: directory, release:id, demo:NAME"
    )
    parser.add_argument(
        "--method", required=True, choices=[m.value for m in Method], metavar="METHOD",
        help="what is fitted: " + ", ".join(m.value for m in Method),
    )  # fmt: skip
    add_out(parser)
    for name, field, metavar, about in (
        ("--sae-model", "model", "PATH|NAME", "the host model, where the SAE's metadata is not "
         "enough"),
        ("--sae-dataset", "dataset", "PATH|NAME", "the texts to fit on (the demo brings its own)"),
        ("--judge-dataset", "judged", "PATH|NAME", "the texts to judge on (default: every tenth "
         "document of --sae-dataset, which is then not fitted on)"),
        ("--sae-hook", "hook", "HOOK", "where the SAE belongs, if its metadata does not say"),
        ("--sae-norm-factor", "norm_factor", "N|folded", "what its training scaled activations "
         "with"),
        ("--json", "json", "FILE", "write repair.json there too"),
    ):  # fmt: skip
        parser.add_argument(name, dest=field, metavar=metavar, help=about)
    parser.add_argument("--sae-training-context", type=int, metavar="N",
                        help="tokens in a row, if the SAE's metadata does not say")  # fmt: skip
    add_device(parser, dtypes="float32, bfloat16, float16, tf32")
    add_numbers(parser, RepairJob)


def execute(options: argparse.Namespace) -> int:
    """Repair, print what changed, and say by the exit code whether it went well."""
    from saebench.fit.repair.repair_run import repair
    from saebench.progress import progress_bar
    from saebench.report.tables.fit_tables import repair_lines, repair_table
    from saebench.store.json_files import check_writable, write_record

    overrides = Overrides(
        options.hook, options.sae_training_context, norm_factor=options.norm_factor
    )
    given = {"method": Method(options.method), "overrides": overrides}
    job = RepairJob(**values_for(RepairJob, options) | given)
    copy = None if options.json is None else Path(os.path.expanduser(options.json))
    if copy is not None:
        check_writable(copy, option="--json")
    try:
        record = repair(job, progress=progress_bar, say=note)
    except NonFiniteValue as error:
        return failed(error, job.out)
    if copy is not None:
        write_record(record, copy)
    say(repair_table(record))
    for line in repair_lines(record):
        say(line)
    say(f"written: {job.out} (the SAE, repair.json)")
    return 0
