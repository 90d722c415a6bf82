"""`python -m hosts`, from tests/: try every architecture at every hook; write docs/hosts.md."""

import argparse
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hosts.cells import FamilyResult

PAGE = Path(__file__).resolve().parents[2] / "docs" / "hosts.md"
PROCESSES = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Return 1 where a number is wrong, an error is raw, or a cell proves nothing."""
    parser = argparse.ArgumentParser(prog="python -m hosts", description=__doc__)
    parser.add_argument("families", nargs="*", help="print their cells; the page stays as it is")
    options = parser.parse_args(argv)
    found = _of_some(options.families) if options.families else _of_all()
    faults = [c for result in found for c in result.cells if c.outcome.is_fault]
    sys.stdout.write("".join(f"{cell}\n" for cell in faults) if not options.families else "")
    sys.stdout.write(f"{_summary(found)}\n")
    return min(len(faults), 1)


def _of_some(names: Sequence[str]) -> "list[FamilyResult]":
    _prepare()
    from hosts.cells import run_family

    results = []
    for name in names:
        results.append(found := run_family(name))
        sys.stdout.write(f"{name}: not built: {found.not_built}\n" if found.not_built else "")
        sys.stdout.write("".join(f"{cell}\n" for cell in found.cells))
    return results


def _of_all() -> "list[FamilyResult]":
    from hosts.page import page

    results = sorted(_in_processes(), key=lambda result: result.family)
    PAGE.write_text(page(results, _versions()), encoding="utf-8")
    sys.stdout.write(f"written to {PAGE}\n")
    return results


def _in_processes() -> "Iterator[FamilyResult]":
    from tqdm import tqdm

    from hosts.cells import Cell, FamilyResult, Outcome, run_family
    from hosts.tiny_models import families

    names = [family.name for family in families()]
    with ProcessPoolExecutor(PROCESSES, initializer=_prepare) as pool:
        jobs = {pool.submit(run_family, name): name for name in names}
        for job in tqdm(as_completed(jobs), total=len(jobs), unit=" families"):
            try:
                yield job.result()
            except Exception as error:  # the process died: no family may be left out
                cell = Cell(jobs[job], "model", -1, Outcome.RAW, repr(error))
                yield FamilyResult(jobs[job], (cell,))


def _prepare() -> None:
    """Have one thread, and none of transformers' advice."""
    import torch
    from transformers.utils import logging

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    logging.set_verbosity_error()


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {
        "transformers": version("transformers"),
        "transformer_lens": version("transformer-lens"),
    }


def _summary(results: "Sequence[FamilyResult]") -> str:
    from hosts.cells import totals

    said = ", ".join(f"{n} {outcome.value}" for outcome, n in totals(list(results)).items())
    not_built = sum(bool(result.not_built) for result in results)
    return f"{len(results)} families ({not_built} not built): {said}"


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
