"""Compare every number and verdict of two checkouts' result files: a rebuild may change none.

    python -m tools.same_numbers ../before . -- --sae demo --sae-sequences 48

runs ``pytest benchmarks`` with the options after ``--`` in both directories, and compares what the
two result files say of each case: metrics, intervals, gates, series, and the sums next to them.
Words may differ.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

TOLERANCE = 1e-9  # relative
TIMES = ("duration_s", "seconds", "tokens_per_second", "memory", "fingerprint")
"""What differs from run to run: times, memory, and hashes that name versions."""
Path_ = tuple[str, ...]


def numbers_of(value: Any, path: Path_ = ()) -> Iterator[tuple[Path_, float | str]]:
    """Give every number and verdict in a JSON value, with where it is.

    Example:
        >>> list(numbers_of({"a": [1, {"name": "b", "value": 2.5, "verdict": "PASS"}]}))
        [(('a', '0'), 1), (('a', 'b', 'value'), 2.5), (('a', 'b', 'verdict'), 'PASS')]
    """
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from numbers_of(each, (*path, str(key)))
    elif isinstance(value, list):
        for i, each in enumerate(value):
            named = each.get("id") or each.get("name") if isinstance(each, Mapping) else None
            yield from numbers_of(each, (*path, str(named or i)))
    elif path[-1:] == ("verdict",) or _is_number(value):
        yield path, value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def differences(
    before: Mapping[Path_, float | str], after: Mapping[Path_, float | str]
) -> list[str]:
    """Return a line for each value that differs by more than 1e-9, or is in one alone."""
    lines = [f"only before: {'/'.join(path)}" for path in before.keys() - after.keys()]
    lines += [f"only after: {'/'.join(path)}" for path in after.keys() - before.keys()]
    for path in before.keys() & after.keys():
        if not _equal(before[path], after[path]):
            lines.append(f"{'/'.join(path)}: {before[path]!r} before, {after[path]!r} after")
    return sorted(lines)


def _equal(one: float | str, two: float | str) -> bool:
    if isinstance(one, str) or isinstance(two, str):
        return one == two
    return math.isclose(one, two, rel_tol=TOLERANCE, abs_tol=1e-12)


def renamed(path: Path_, names: Mapping[str, str]) -> Path_:
    """Return a path in the later checkout's names."""
    return tuple(names.get(part, part) for part in path)


def measured(checkout: Path, options: Sequence[str], out: Path) -> dict[Path_, float | str]:
    """Run the benchmarks of a checkout; return its numbers and the sums that they came of."""
    command = [sys.executable, "-m", "pytest", str(checkout / "benchmarks"), "-q"]
    command += ["-p", "no:cacheprovider", "--sae-json", str(out), *options]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    subprocess.run(command, cwd=checkout, env=environment, stdout=subprocess.DEVNULL, check=False)
    cases = json.loads(out.read_text(encoding="utf-8"))["cases"]
    found = {
        path: value
        for path, value in numbers_of(cases)
        if not any(time in part for part in path for time in TIMES)
    }
    sums = out.with_suffix(".sums.npz")
    if sums.is_file():
        with np.load(sums) as tables:
            for name in (name for name in tables.files if tables[name].dtype.kind == "f"):
                found |= {(name, str(i)): float(v) for i, v in enumerate(tables[name].ravel())}
    return found


def main() -> int:
    """Compare two checkouts; 1 where a number differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # pyright: ignore[reportOptionalMemberAccess]
    parser.add_argument("before", type=Path, help="a checkout")
    parser.add_argument("after", type=Path, help="another")
    parser.add_argument("options", nargs="*", help="pytest's options, after --")
    parser.add_argument(
        "--renamed", action="append", default=[], metavar="OLD=NEW", help="a key that was renamed"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        both = [
            measured(checkout.resolve(), arguments.options, Path(scratch) / f"{name}.json")
            for name, checkout in (("before", arguments.before), ("after", arguments.after))
        ]
    names = dict(pair.split("=", 1) for pair in arguments.renamed)
    before = {renamed(path, names): value for path, value in both[0].items()}
    lines = differences(before, both[1])
    sys.stdout.write("".join(f"{line}\n" for line in lines[:40]))
    sys.stdout.write(f"{len(both[0])} values before, {len(both[1])} after, {len(lines)} differ\n")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
