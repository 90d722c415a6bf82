"""The ``saebench`` command: imports one subcommand, runs it, returns its exit code."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from textwrap import dedent, indent
from typing import Any, NoReturn

from saebench import __version__
from saebench.errors import SaebenchError, nearest
from saebench.telemetry import switch_telemetry_off
from saebench.text import every_text, plain_lines

PASSED, WORSE, INTERRUPTED, USAGE_ERROR = 0, 1, 2, 4  # pytest's


@dataclass(frozen=True)
class Command:
    """A subcommand: its module, with EXAMPLES, ``add_arguments`` and ``execute``."""

    module: str
    summary: str


COMMANDS = {
    name: Command(f"saebench.cli.{name.replace('-', '_')}_command", summary)
    for name, summary in (
        ("run", "judge SAEs: pytest on the shipped benchmarks, with all of pytest's options"),
        ("report", "write a page for a browser of result files, or figures for papers"),
        ("compare", "compare two SAEs, pair by pair where both were measured on the same tokens"),
        ("list", "list SAEs: the embedded zoo, or what SPECs name"),
        ("show", "print the tables of a result file again"),
        ("baseline", "list, show, check or remove stored baselines"),
        ("leaderboard", "build, check or show the leaderboard of the stored baselines"),
        ("repair", "undo feature suppression: fine-tune an SAE without its sparsity penalty"),
        ("train", "train an SAE: on activations, or on the whole model's loss"),
        ("train-sweep", "train objectives × sparsities, and judge their frontier of KL against L0"),
        ("export", "turn a result file into CSV, JUnit, other tools' layouts, a model card"),
        ("doctor", "list what is installed, where the caches are, and what is missing"),
    )
}
EXAMPLES = """
    saebench run --sae demo:l2-topk --sae-sequences 64      judge one of the embedded SAEs
    saebench run --sae path/to/sae --sae-dataset texts.jsonl --sae-json run.json
    saebench show run.json                                  print its verdicts again
    saebench report run.json -o report.html                 the same as a page, with figures
    saebench compare l2-standard l2-topk                    which of two baselines is worse?
    saebench leaderboard show --sort fidelity.kl
    saebench doctor                                         is everything there?
"""
CODES = """
exit codes are pytest's:
  0  every gate passed; nothing is worse, stale or missing
  1  a gate failed or stayed undecided; something is worse, stale or missing
  2  interrupted
  4  the command could not be carried out: the message gives the reason
"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors have pytest's exit code for wrong usage."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the error, and exit."""
        self.print_usage(sys.stderr)
        self.exit(USAGE_ERROR, f"{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code, pytest's own where pytest runs."""
    switch_telemetry_off()
    arguments = list(sys.argv[1:] if argv is None else argv)
    with ExitStack() as streams:
        for stream in (sys.stdout, sys.stderr):
            streams.enter_context(every_text(stream))
        return _run(arguments, is_own_process=argv is None)


def _run(arguments: Sequence[str], *, is_own_process: bool) -> int:
    """Run the command; turn errors and interruptions into a message and an exit code."""
    try:
        return _dispatch(arguments, is_own_process=is_own_process)
    except SaebenchError as error:
        sys.stderr.write(f"saebench: {plain_lines(str(error))}\n")
        return USAGE_ERROR
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("saebench"):
            raise
        sys.stderr.write(f"saebench: {error}; saebench doctor says what else is missing\n")
        return USAGE_ERROR
    except KeyboardInterrupt:
        sys.stderr.write("saebench: interrupted\n")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has ended, as head does
        sys.stdout = sys.stderr  # so that nothing more is flushed into the closed pipe
        return PASSED


def _dispatch(arguments: Sequence[str], *, is_own_process: bool) -> int:
    if not arguments or arguments[0].startswith("-"):
        _top_parser().parse_args(arguments)
        _top_parser().error(f"no command given; there are {', '.join(COMMANDS)}")
    name, *rest = arguments
    if name not in COMMANDS:
        _top_parser().error(f"no command {name!r}{nearest(name, COMMANDS)}")
    module = import_module(COMMANDS[name].module)
    if hasattr(module, "forward") and rest not in (["-h"], ["--help"]):
        return module.forward(rest, replace=is_own_process)
    parser = make_parser(name, module)
    return module.execute(parser.parse_args(rest))


def make_parser(name: str, module: Any) -> Parser:
    """Return a subcommand's parser; examples end its help."""
    parser = Parser(
        prog=f"saebench {name}",
        description=COMMANDS[name].summary,
        epilog=_indented("examples", module.EXAMPLES) + getattr(module, "CODES", ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    return parser


def _indented(title: str, text: str) -> str:
    return f"{title}:\n{indent(dedent(text).strip(), '  ')}\n"


def _top_parser() -> Parser:
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name.ljust(width)}  {c.summary}" for name, c in COMMANDS.items())
    parser = Parser(
        prog="saebench",
        usage="saebench COMMAND …   (saebench COMMAND --help says more)",
        description="A release gate for sparse autoencoders of language models.\n\n"
        f"commands:\n{listed}",
        epilog=_indented("examples", EXAMPLES) + CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"saebench {__version__}")
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    return parser
