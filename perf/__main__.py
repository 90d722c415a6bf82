"""`python -m perf`: measure, print the table, write JSON."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from perf.settings import SIZES, STATED_THREADS, Settings
from perf.timing import CLOCKS, STATISTICS

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
README = HERE / "README.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0, or 1 where a peer's numbers differ from ours without a known reason."""
    import torch
    from rich.console import Console
    from transformers.utils import logging

    from perf.report import as_json, tables, write_readme
    from perf.run import measured

    options = _options(argv)
    logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    report = measured(_settings(options), say=Console(stderr=True).print)
    console = Console()
    console.print(tables(report))
    output = options.output or RESULTS / f"{report.started.replace(':', '')}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(as_json(report), encoding="utf-8")
    console.print(f"written to {output}", soft_wrap=True)
    if options.readme:
        write_readme(report, README)
    return 1 if report.disagreements else 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    from perf.cases import CASES

    parser = argparse.ArgumentParser(prog="python -m perf", description=__doc__)
    add = parser.add_argument
    add("--size", choices=SIZES, help="of model, SAEs and tokens; default gpt2, or gpt2-gpu")
    add("--device", choices=["cpu", "cuda"], default="cpu", help="of ours and of the peers")
    add("--smoke", action="store_const", dest="size", const="smoke", help="the tiny size")
    add("--cases", nargs="+", choices=CASES, help="all where not given")
    add("--threads", type=_positive, default=STATED_THREADS, help="of the matrix products")
    add("--repeats", type=_positive, default=3, help="timed calls of each, after a warm-up")
    add("--statistic", choices=STATISTICS, default="min", help="of the repeats")
    add("--clock", choices=CLOCKS, default="wall", help="cpu: processor time, on a busy machine")
    add("--no-sae-bench", action="store_true", help="do not install and measure sae_bench")
    add("--readme", action="store_true", help="put the table into perf/README.md")
    add("-o", "--output", type=Path, help="the JSON; by default a new file in perf/results")
    options = parser.parse_args(argv)
    on_gpu = options.device == "cuda"
    options.size = options.size or ("gpt2-gpu" if on_gpu else "gpt2")
    # Resident memory is a CPU's, and sae_bench's environment has no torch for a GPU.
    options.cases = options.cases or [case for case in CASES if not (on_gpu and case == "memory")]
    options.no_sae_bench |= on_gpu
    if options.clock == "cpu" and (options.threads > 1 or not options.no_sae_bench):
        parser.error(
            "--clock cpu adds up the threads, and does not see sae_bench's process: "
            "give --threads 1 --no-sae-bench with it"
        )
    if options.readme and (options.size != "gpt2" or set(options.cases) != set(CASES)):
        parser.error("--readme replaces the whole table: run all cases at GPT-2 size for it")
    return options


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}: give 1 or more")
    return value


def _settings(options: argparse.Namespace) -> Settings:
    return Settings(
        size=options.size,
        threads=options.threads,
        repeats=options.repeats,
        statistic=options.statistic,
        cases=tuple(options.cases),
        sae_bench=not options.no_sae_bench,
        clock=options.clock,
        device=options.device,
    )


if __name__ == "__main__":
    # All is made here or lies on this disk: no library shall look for it elsewhere. They read
    # this when they are first imported, which main does.
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.exit(main())
