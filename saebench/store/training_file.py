"""The training's JSON file: strict, validated, written whole or not at all."""

import json
from pathlib import Path

from saebench.store.atomic import write_file
from saebench.store.record_file import read_record
from saebench.trainings import TRAINING_SCHEMA_VERSION, TrainingRecord


def write_training(record: TrainingRecord, path: Path) -> None:
    """Write a record, replacing an older file in one step.

    Raises:
        StoreError: where it cannot be written; an older file is left as it was.
    """
    write_file(path, (json.dumps(record.to_dict(), allow_nan=False, indent=1) + "\n").encode())


def read_training(path: Path) -> TrainingRecord:
    """Read a training's file.

    Raises:
        StoreError: where it is missing, no such file, or of another schema version.
    """
    return read_record(path, TrainingRecord, version=TRAINING_SCHEMA_VERSION, what="training")
