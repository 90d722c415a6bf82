"""Arguments that repair, train and train-sweep share."""

import argparse
import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from saebench.errors import NonFiniteValue, OptionError
from saebench.fit import numbers_of
from saebench.text import plain_lines, plain_text


def add_numbers(parser: argparse.ArgumentParser, job: type) -> None:
    """Declare the numbers of a job, with the job's own defaults and help."""
    for option, each in numbers_of(job):
        default = "" if each.default is None else f" (default {each.default:,})"
        parser.add_argument(
            option, type=each.metadata["kind"], default=each.default, metavar="N",
            help=each.metadata["help"] + default,
        )  # fmt: skip


def add_out(parser: argparse.ArgumentParser, *, resumes: bool = True) -> None:
    """Declare the output directory, and what becomes of one that is there.

    Args:
        parser: the command's.
        resumes: ``--resume`` and ``--force`` exist.
    """
    parser.add_argument("-o", "--out", required=True, metavar="OUT", help="directory to write")
    if resumes:
        parser.add_argument("--resume", action="store_true", help="go on from OUT.checkpoint")
        parser.add_argument("--force", action="store_true", help="replace OUT, and start anew")


def add_device(parser: argparse.ArgumentParser, *, dtypes: str) -> None:
    """Declare where the model runs, and in which dtype."""
    parser.add_argument(
        "--sae-device", dest="device", metavar="DEVICE", help="default: cuda where there is one"
    )
    parser.add_argument(
        "--sae-dtype", dest="dtype", metavar="DTYPE", help=f"of the model: {dtypes}"
    )


def values_for(job: type, options: argparse.Namespace) -> dict[str, Any]:
    """Return the given options that are fields of a job; the job has defaults for the others."""
    names = {field.name for field in fields(job)}
    return {k: v for k, v in vars(options).items() if k in names and v is not None} | (
        {"out": out_of(options.out)} if "out" in names else {}
    )


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
    sys.stderr.write(f"note: {plain_text(line)}\n")


def failed(error: NonFiniteValue, out: Path) -> int:
    """Say why a fit ended early and where its last good state is; return the exit code."""
    from saebench.fit.saving import checkpoint_path

    files = [checkpoint_path(out.with_name(f"{out.name}{which}")) for which in ("", ".init")]
    good = "".join(f"; the last good state is in {file}" for file in files if file.exists())
    sys.stderr.write(f"saebench: {plain_lines(str(error))}{good}\n")
    return 1
