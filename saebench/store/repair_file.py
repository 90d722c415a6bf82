"""The repair's JSON file: strict, validated, written whole or not at all."""

import json
from pathlib import Path
from typing import Any

from saebench.errors import StoreError
from saebench.repairs import REPAIR_SCHEMA_VERSION, RepairRecord
from saebench.store.atomic import write_file
from saebench.store.record_file import read_record
from saebench.store.strict_json import HALVES


def write_repair(record: RepairRecord, path: Path) -> None:
    """Write a record, replacing an older file in one step.

    Raises:
        StoreError: where it cannot be written; an older file is left as it was.
    """
    write_file(path, (dump_repair(record) + "\n").encode(errors=HALVES))


def dump_repair(record: RepairRecord) -> str:
    """Return a record as strict JSON.

    Raises:
        ValueError: for NaN or infinity, which JSON does not have.
    """
    return json.dumps(record.to_dict(), allow_nan=False, indent=1, ensure_ascii=False)


def read_repair(path: Path) -> RepairRecord:
    """Read a repair's file.

    Raises:
        StoreError: where it is missing, no such file, or of another schema version.
    """
    found = read_record(path, RepairRecord, version=REPAIR_SCHEMA_VERSION, what="repair")
    try:
        dump_repair(found)  # pydantic makes infinity of "1e999"
        found.row("perplexity_gap")
    except (ValueError, KeyError) as error:
        raise StoreError(f"{path}: no saebench repair file: {error}") from error
    return found


def repair_schema() -> dict[str, Any]:
    """Return the JSON Schema of a repair's file."""
    from pydantic import TypeAdapter

    return TypeAdapter(RepairRecord).json_schema()
