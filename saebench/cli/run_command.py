"""``saebench run``: pytest on the shipped benchmarks, in a process of its own."""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from saebench.store.environment import benchmarks_dir

SETTINGS = ("pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg")
EXAMPLES = """
    saebench run --sae demo:l2-topk --sae-sequences 64
    saebench run --sae 'saes/*' --sae-dataset texts.jsonl --sae-json run.json --sae-md run.md
    saebench run --sae path/to/sae --sae-dataset texts.jsonl -k kl_gap
    saebench run --sae path/to/sae --sae-dataset texts.jsonl --sae-fail-on 'fidelity.kl<=0.1'
    saebench run --sae 'saes/*' --sae-dataset texts.jsonl -n 2 --junitxml run.xml
    pytest --help        every option: group saebench, and pytest's own
"""
CODES = """
exit codes: 0 every gate passed, 1 a gate failed or stayed undecided, 2 interrupted,
            4 the run could not start, 5 nothing was selected
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the help shows; the arguments themselves are pytest's to read."""
    parser.add_argument("options", nargs="*", metavar="OPTION", help="options of pytest, such as:")
    for name, about in (
        (
            "--sae SPEC",
            "an SAE: directory, glob, release:sae_id, org/repo:path, demo; or NAME=SPEC",
        ),
        ("--sae-dataset PATH|NAME", "the texts to measure on"),
        ("--sae-model PATH|NAME", "the host model, where the SAE's metadata is not enough"),
        ("--sae-sequences N", "how much to measure on (default 512)"),
        ("--sae-json FILE", "write the result file"),
        ("--sae-md FILE", "write a Markdown summary"),
    ):
        option, _, metavar = name.partition(" ")
        parser.add_argument(option, metavar=metavar, help=about)


def execute(options: argparse.Namespace) -> int:  # noqa: ARG001
    """Never reached: the parser ends with its help, all else is forwarded."""
    raise AssertionError("saebench run forwards its arguments")


def forward(arguments: Sequence[str]) -> int:
    """Run pytest on the benchmarks, as if they lay in the current directory.

    A process of its own: pytest wants to import its plugins itself. The project's settings are
    those of the current directory, not of whatever lies above the installed package.
    """
    here = Path.cwd()
    settings = next((here / name for name in SETTINGS if (here / name).is_file()), os.devnull)
    project = [f"--rootdir={here}", "-c", str(settings)]
    command = [sys.executable, "-m", "pytest", str(benchmarks_dir()), *project, *arguments]
    return subprocess.run(command, check=False).returncode
