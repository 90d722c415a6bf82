"""The sweep's files: sweep.json, strict and validated, and its points as CSV."""

import csv
import io
import json
from pathlib import Path

from saebench.store.atomic import write_file
from saebench.store.record_file import read_record
from saebench.sweeps import SWEEP_SCHEMA_VERSION, SweepRecord

PLACE = ("equal", "hook", "sparsity", "objective", "tokens", "learning_rate", "seconds",
         "converged")  # fmt: skip


def write_sweep(record: SweepRecord, path: Path) -> None:
    """Write a record, replacing an older file in one step.

    Raises:
        StoreError: where it cannot be written; an older file is left as it was.
    """
    write_file(path, (json.dumps(record.to_dict(), allow_nan=False, indent=1) + "\n").encode())


def read_sweep(path: Path) -> SweepRecord:
    """Read a sweep's file.

    Raises:
        StoreError: where it is missing, no such file, or of another schema version.
    """
    return read_record(path, SweepRecord, version=SWEEP_SCHEMA_VERSION, what="training sweep")


def write_points(record: SweepRecord, path: Path) -> None:
    """Write the points as CSV: each metric with the ends of its interval.

    Raises:
        StoreError: where it cannot be written.
    """
    names = list(dict.fromkeys(name for point in record.points for name in point.metrics))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*PLACE, *(f"{n}{end}" for n in names for end in ("", "_low", "_high"))))
    for point in record.points:
        found = [point.metrics.get(name) for name in names]
        numbers = [None if f is None else getattr(f, e) for f in found for e in
                   ("value", "low", "high")]  # fmt: skip
        writer.writerow((*(getattr(point, p) for p in PLACE), *numbers))
    write_file(path, text.getvalue().encode())
