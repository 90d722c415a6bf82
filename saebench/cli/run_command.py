"""``saebench run``: pytest on the shipped benchmarks, in a process of its own."""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from saebench.options import declare
from saebench.store.environment import benchmarks_dir

SETTINGS = ("pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg")
EXAMPLES = """
    saebench run --sae demo:l2-topk --sae-sequences 64
    saebench run --sae 'saes/*' --sae-dataset texts.jsonl --sae-json run.json --sae-md run.md
    saebench run --sae path/to/sae --sae-dataset texts.jsonl -k kl_gap
    saebench run --sae path/to/sae --sae-dataset texts.jsonl --sae-fail-on 'fidelity.kl<=0.1'
    saebench run --sae 'saes/*' --sae-dataset texts.jsonl -n 2 --junitxml run.xml
    pytest --help        pytest's own options
"""
CODES = """
exit codes: 0 every gate passed, 1 a gate failed or stayed undecided, 2 interrupted,
            4 the run could not start, 5 nothing was selected

Each option is read from the environment too (SAEBENCH_CONTEXT for --sae-context), and from
[tool.saebench] of pyproject.toml (context = 64); the command line goes first, then the environment.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the help shows; the arguments themselves are pytest's to read."""
    parser.usage = "%(prog)s --sae SPEC [options of saebench] [options of pytest]"
    declare(lambda group: parser.add_argument_group(group).add_argument)


def execute(options: argparse.Namespace) -> int:  # noqa: ARG001
    """Do nothing: all arguments but ``--help`` are forwarded."""
    raise AssertionError("saebench run forwards its arguments")


def forward(arguments: Sequence[str]) -> int:
    """Run pytest on the benchmarks, with the current directory as the project's.

    A process of its own: pytest wants to import its plugins itself. Its configuration is that of
    the current directory, not one in a directory above the installed package.
    """
    here = Path.cwd()
    settings = next((here / name for name in SETTINGS if (here / name).is_file()), os.devnull)
    project = [f"--rootdir={here}", "-c", str(settings)]
    command = [sys.executable, "-m", "pytest", str(benchmarks_dir()), *project, *arguments]
    return subprocess.run(command, check=False).returncode
