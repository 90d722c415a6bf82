"""``saebench export``: a result file for other tools."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from saebench.cli.output import say
from saebench.cli.show_command import only
from saebench.cli.stored import shown_path
from saebench.errors import OptionError
from saebench.records.run import Run
from saebench.report.exports.csv_table import to_csv
from saebench.report.exports.junit import to_junit
from saebench.report.exports.model_card import to_model_card
from saebench.report.exports.sae_bench import file_name, to_sae_bench
from saebench.report.exports.sae_lens import to_sae_lens
from saebench.report.markdown import to_markdown
from saebench.store.atomic import write_file
from saebench.store.json_files import HALVES, read_run

EXAMPLES = """
    saebench export run.json --format csv --out metrics.csv
    saebench export run.json --format junit --out report.xml
    saebench export run.json --format model-card --sae mine > README.md
    saebench export run.json --format sae_lens --out all_eval_results.json
    saebench export run.json --format sae_bench --out eval_results/core/    a file for each SAE
"""
SAE_BENCH = "sae_bench"


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, indent=2, ensure_ascii=False) + "\n"


FORMATS: dict[str, Callable[[Run], str]] = {
    "csv": to_csv,
    "junit": to_junit,
    "markdown": to_markdown,
    "model-card": to_model_card,
    "sae_lens": lambda run: _json(to_sae_lens(run)),
    SAE_BENCH: lambda run: _json(to_sae_bench(run, run.saes[0])),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("file", metavar="RUN.json", help="what --sae-json wrote")
    parser.add_argument("--format", required=True, choices=FORMATS, help="the layout")
    parser.add_argument("--out", metavar="PATH", help="write here (default: standard output)")
    parser.add_argument("--sae", metavar="ID", action="append", help="only this one, repeatable")


def execute(options: argparse.Namespace) -> int:
    """Convert and write, whole or not at all."""
    run = only(read_run(Path(os.path.expanduser(options.file))), options.sae or ())
    judged = [sae for sae in run.saes if any(case.sae == sae.id for case in run.cases)]
    if not judged:
        raise OptionError(f"{options.file}: it holds no judged SAE, so there is nothing to export")
    run = only(run, [sae.id for sae in judged])
    out = Path(os.path.expanduser(options.out)) if options.out else None
    if options.format == SAE_BENCH and (len(judged) > 1 or _is_directory(options.out)):
        return _write_each(run, out)
    text = FORMATS[options.format](run)
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
        texts[name] = _json(to_sae_bench(run, sae))
    for name, text in texts.items():
        write_file(directory / name, text.encode(errors=HALVES))
        say(f"written: {shown_path(directory / name)}")
    return 0


def _is_directory(out: str | None) -> bool:
    return out is not None and (out.endswith(os.sep) or Path(os.path.expanduser(out)).is_dir())
