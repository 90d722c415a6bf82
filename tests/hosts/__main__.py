"""`python -m hosts FAMILY …`, from tests/: try families and print their cells."""

import argparse
import os
import sys
import warnings


def main() -> int:
    """Return 1 where a cell is wrong, raw or quiet."""
    parser = argparse.ArgumentParser(prog="python -m hosts", description=__doc__)
    parser.add_argument("families", nargs="*", help="all where none is given")
    options = parser.parse_args()
    return _one_by_one(options.families)


def _one_by_one(names: list[str]) -> int:
    from hosts.cells import run_family

    faults = 0
    for name in names:
        found = run_family(name)
        sys.stdout.write(f"{name}: not built: {found.not_built}\n" if found.not_built else "")
        sys.stdout.write("".join(f"{cell}\n" for cell in found.cells))
        sys.stdout.flush()
        faults += sum(cell.outcome.is_fault for cell in found.cells)
    return min(faults, 1)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    warnings.simplefilter("ignore")
    import torch
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.set_verbosity_error()
    sys.exit(main())
