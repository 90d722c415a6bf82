"""`python -m redteam`, from tests/: judge all SAEs and adversaries; write docs/redteam.md."""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redteam.verdicts import Judged
    from redteam.world import World

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "redteam.md"
DATA = ROOT.parent / "shared" / "data"


def main(argv: Sequence[str] | None = None) -> int:
    """Return 1 where an adversary passes that nobody has explained."""
    parser = argparse.ArgumentParser(prog="python -m redteam", description=__doc__)
    parser.add_argument("names", nargs="*", help="only these adversaries; the page stays as it is")
    parser.add_argument("--data", type=Path, default=DATA, help="where stories260K's folders are")
    options = parser.parse_args(argv)
    _prepare()
    from redteam.page import page
    from redteam.verdicts import judge_adversaries, judge_honest

    worlds, results = _worlds(options.data), []
    for world in worlds:
        found = [] if options.names else judge_honest(world)
        found += judge_adversaries(world, options.names or None)
        results += found
        sys.stdout.write("".join(f"{world.name:8} {_line(each)}\n" for each in found))
    if len(worlds) == 2 and not options.names:
        PAGE.write_text(page(results, worlds), encoding="utf-8")
        sys.stdout.write(f"written to {PAGE}\n")
    return min(len(_unexplained(results)), 1)


def _worlds(data: Path) -> "list[World]":
    from redteam.world import demo_world, stories_world

    return [demo_world(), *([stories_world(data)] if data.is_dir() else [])]


def _line(judged: "Judged") -> str:
    values = (
        f"{metric}={'undefined' if gate.observed is None else f'{gate.observed:.3g}'}"
        for metric, gate in judged.gates.items()
        if metric in judged.failed
    )
    return f"{judged.name:32} {judged.verdict.value:12} {' '.join(values)}{judged.reason[:120]}"


def _unexplained(results: "list[Judged]") -> list[str]:
    from redteam.catalogue import ADVERSARIES

    return [each.name for each in results if each.passes and each.name in ADVERSARIES
            and ADVERSARIES[each.name].passes_because is None]  # fmt: skip


def _prepare() -> None:
    """Have one thread, and none of transformers' advice."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    import torch
    from transformers.utils import logging

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()


if __name__ == "__main__":
    sys.exit(main())
