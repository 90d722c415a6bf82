"""The per-sequence sums of a run, next to its result file, for paired comparisons.

Those of ``run.json`` are in ``run.sums.npz``: the result file is plain JSON, and complete without
them. They name the run and each case's fingerprint: sums of another run are refused.
"""

import io
import json
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from saebench.errors import StoreError
from saebench.records.run import Run
from saebench.store.atomic import write_files
from saebench.store.baselines import Measured
from saebench.store.json_files import record_bytes

VERSION = 1
ABOUT = "about"
Sums = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class CaseSums:
    """One case's per-sequence sums by channel, and the case's fingerprint."""

    fingerprint: str
    table: Sums


@dataclass(frozen=True)
class RunSums:
    """The per-sequence sums of a run's cases, by case id."""

    cases: Mapping[str, CaseSums]


def sums_path(result: Path) -> Path:
    """Return the path of a result file's sums.

    Example:
        >>> sums_path(Path("out/run.json")).name
        'run.sums.npz'
    """
    return result.with_name(f"{result.stem}.sums.npz")


def run_sums(measured: Iterable[Measured]) -> RunSums:
    """Return the sums of each case that is about one SAE and has metrics."""
    cases = {}
    for each in measured:
        for case in each.cases:
            key = each.table_of.get(case.id)
            if key is not None and case.metrics and case.sae == each.sae.id:
                cases[case.id] = CaseSums(case.fingerprint, each.tables[key])
    return RunSums(cases)


def joined_sums(parts: Iterable[RunSums]) -> RunSums:
    """Return the sums of several processes' cases as one."""
    return RunSums({name: case for part in parts for name, case in part.cases.items()})


def dump_sums(sums: RunSums, *, run_id: str) -> bytes:
    """Return an npz of the sums; equal sums give equal bytes, whatever their order.

    Args:
        sums: of the run's cases.
        run_id: of the run.
    """
    ordered = sorted(sums.cases.items())
    tables: list[Sums] = []
    for _, case in ordered:  # cases of one measurement share their table
        if not any(case.table is table for table in tables):
            tables.append(case.table)
    cases = {
        name: {
            "fingerprint": case.fingerprint,
            "table": next(i for i, table in enumerate(tables) if table is case.table),
        }
        for name, case in ordered
    }
    tables_of = list(map(sorted, tables))
    about = {"version": VERSION, "run": run_id, "tables": tables_of, "cases": cases}
    encoded = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
    arrays = {
        f"{i}/{channel}": values
        for i, table in enumerate(tables)
        for channel, values in sorted(table.items())
    }
    buffer = io.BytesIO()
    contents: Any = {ABOUT: encoded} | arrays
    np.savez_compressed(buffer, **contents)
    return buffer.getvalue()


def parse_sums(data: bytes, *, where: str) -> tuple[str, RunSums]:
    """Return the id of the sums' run, and the sums.

    Raises:
        StoreError: where they are damaged or of another version.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        about = json.loads(arrays.pop(ABOUT).tobytes())
        if about["version"] != VERSION:
            raise StoreError(f"{where}: sums of version {about['version']}, expected {VERSION}")
        tables = [_table(arrays, i, channels) for i, channels in enumerate(about["tables"])]
        cases = {
            str(name): CaseSums(str(case["fingerprint"]), tables[case["table"]])
            for name, case in about["cases"].items()
        }
        return str(about["run"]), RunSums(cases)
    except _DAMAGE as error:
        raise StoreError(
            f"{where}: no per-sequence sums that can be read ({type(error).__name__}: {error}); "
            "measure again, or remove it to compare without pairs"
        ) from error


def write_result(run: Run, sums: RunSums, result: Path) -> None:
    """Write a result file and the sums next to it, both or neither.

    Raises:
        NotWritten: where one cannot be written; older files are left as they were.
    """
    write_files(
        {
            sums_path(result): dump_sums(sums, run_id=run.run.id),
            result: record_bytes(run),
        }
    )


def read_sums(result: Path, run: Run) -> RunSums:
    """Return the sums next to a result file; none where there is no such file.

    Args:
        result: the result file.
        run: its content.

    Raises:
        StoreError: where they are damaged, or another run's.
    """
    path = sums_path(result)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return RunSums({})
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    run_id, sums = parse_sums(data, where=str(path))
    fingerprints = {case.id: case.fingerprint for case in run.cases}
    other = [n for n, case in sums.cases.items() if fingerprints.get(n) != case.fingerprint]
    if run_id != run.run.id or other:
        raise StoreError(
            f"{path}: holds the sums of another run than {result.name}'s; put those of that run "
            "next to it, or remove the file to compare without pairs"
        )
    return sums


_DAMAGE = (OSError, ValueError, EOFError, AttributeError, LookupError, TypeError, RecursionError,
           zipfile.BadZipFile, zlib.error, NotImplementedError)  # fmt: skip


def _table(arrays: Mapping[str, np.ndarray], at: int, channels: Iterable[str]) -> Sums:
    """Return a table's channels.

    Raises:
        KeyError: where one is missing.
        ValueError: where they are no columns of numbers of one length.
    """
    table = {channel: arrays[f"{at}/{channel}"] for channel in channels}
    shapes = {values.shape for values in table.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        raise ValueError(f"table {at}: expected columns of one length, found {shapes or 'none'}")
    if any(values.dtype.kind not in "fiu" for values in table.values()):
        raise ValueError(f"table {at}: expected numbers")
    return table
