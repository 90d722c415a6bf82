"""``saebench run``: pytest on the shipped benchmarks, in place of this process."""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from saebench.options import declare
from saebench.store.environment import benchmarks_dir
from saebench.termination import sigterm_interrupts

SETTINGS = ("pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg")
# What the shipped benchmarks are called, whatever a project calls its own tests.
NAMES = ("python_files=test_*.py", "python_functions=test_*")
EXAMPLES = """
    saebench run --sae demo:l2-topk --sae-sequences 64
    saebench run --sae 'saes/*' --sae-dataset texts.jsonl --sae-json run.json --sae-md run.md
    saebench run --sae path/to/sae --sae-dataset texts.jsonl -k kl_gap
    saebench run --sae path/to/sae --sae-dataset texts.jsonl --sae-fail-on 'fidelity.kl<=0.1'
    saebench run --sae 'saes/*' --sae-dataset texts.jsonl -n 2 --junitxml run.xml
    pytest --help        pytest's own options
"""
CODES = """
exit codes: 0 every gate passed, 1 a gate failed or stayed undecided,
            2 interrupted (Ctrl-C, SIGTERM), 3 a file could not be written,
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


def forward(arguments: Sequence[str], *, replace: bool) -> int:
    """Run pytest in a new interpreter, because it wants to import its plugins itself.

    Args:
        arguments: pytest's.
        replace: let pytest take the place of this process, so that signals reach it and nothing is
            left behind. Otherwise, for a caller in Python, it is a child that ends with SIGTERM to
            the caller.
    """
    command = pytest_command(arguments)
    if replace and os.name == "posix":
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os.execv(command[0], command)
    with sigterm_interrupts(), subprocess.Popen(command) as child:
        try:
            return child.wait()
        except BaseException:
            child.terminate()
            raise


def pytest_command(arguments: Sequence[str]) -> list[str]:
    """Return the command that runs pytest on the benchmarks.

    The project, and its configuration, is that of the current directory, not one in a directory
    above the installed package. How it names its own tests does not hide the benchmarks.
    """
    here = Path.cwd()
    settings = next((here / name for name in SETTINGS if (here / name).is_file()), os.devnull)
    project = [f"--rootdir={here}", "-c", str(settings)]
    command = [sys.executable, "-m", "pytest", str(benchmarks_dir())]
    return [*command, *project, *_own_names(Path(settings)), *arguments]


def _own_names(settings: Path) -> Iterator[str]:
    """Give what overrides the project's names of test files and functions, where it has some."""
    try:
        text = settings.read_bytes()
    except OSError:  # pytest says why
        return
    yield from (
        f"--override-ini={name}" for name in NAMES if name.partition("=")[0].encode() in text
    )
