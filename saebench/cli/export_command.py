"""``saebench export``: a result file for other tools."""

import argparse
import os
import sys
from pathlib import Path

from saebench.cli.output import say
from saebench.cli.show_command import only
from saebench.cli.stored import shown_path
from saebench.errors import OptionError
from saebench.records.run import Run
from saebench.report.exports.renderers import (
    GROUP,
    SAE_BENCH,
    find_renderer,
    renderer_names,
    strict_json,
)
from saebench.report.exports.sae_bench import file_name, to_sae_bench
from saebench.store.atomic import write_file
from saebench.store.json_files import HALVES, read_run

EXAMPLES = """
    saebench export run.json --format csv --out metrics.csv
    saebench export run.json --format junit --out report.xml
    saebench export run.json --format model-card --sae mine > README.md
    saebench export run.json --format sae_lens --out all_eval_results.json
    saebench export run.json --format sae_bench --out eval_results/core/    a file for each SAE
"""
CODES = f"""
an installed distribution adds a format by an entry point of the group {GROUP}: its name is the
format's, its value a callable that takes a saebench.records.run.Run and returns a string:

  [project.entry-points."{GROUP}"]
  table = "my_package:render"
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("file", metavar="RUN.json", help="what --sae-json wrote")
    parser.add_argument("--format", required=True, choices=renderer_names(), help="the layout")
    parser.add_argument("-o", "--out", metavar="PATH", help="write here (default: standard output)")
    parser.add_argument("--sae", metavar="ID", action="append", help="only this one, repeatable")


def execute(options: argparse.Namespace) -> int:
    """Convert and write; a file is written completely or not at all."""
    run = only(read_run(Path(os.path.expanduser(options.file))), options.sae or ())
    judged = run.judged
    if not judged:
        raise OptionError(f"{options.file}: it has no judged SAE, so there is nothing to export")
    run = only(run, [sae.id for sae in judged])
    out = Path(os.path.expanduser(options.out)) if options.out else None
    if options.format == SAE_BENCH and (len(judged) > 1 or _is_directory(options.out)):
        return _write_each(run, out)
    text = find_renderer(options.format)(run)
    if out is None:
        sys.stdout.write(text)
        return 0
    write_file(out, text.encode(errors=HALVES))
    say(f"written: {shown_path(out)}")
    return 0


def _write_each(run: Run, directory: Path | None) -> int:
    """Write a file for each SAE, as SAEBench does."""
    if directory is None or directory.is_file():
        raise OptionError(
            f"{SAE_BENCH} writes a file for each SAE, and there are {len(run.saes)}: give a "
            "directory with --out, or choose one with --sae"
        )
    texts: dict[str, str] = {}
    for sae in run.saes:
        first = file_name(sae)
        others = (f"{i}_{first}" for i in range(2, len(run.saes) + 2))
        name = next(each for each in (first, *others) if each not in texts)
        texts[name] = strict_json(to_sae_bench(run, sae))
    for name, text in texts.items():
        write_file(directory / name, text.encode(errors=HALVES))
        say(f"written: {shown_path(directory / name)}")
    return 0


def _is_directory(out: str | None) -> bool:
    return out is not None and (out.endswith(os.sep) or Path(os.path.expanduser(out)).is_dir())
