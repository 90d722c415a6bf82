"""The result file: strict JSON, validated, written whole or not at all."""

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

from saebench.errors import OptionError, StoreError
from saebench.results import SCHEMA_VERSION, Run
from saebench.store.atomic import write_file
from saebench.store.record_file import validated
from saebench.store.strict_json import HALVES, loads

READ_VERSIONS = (1, 2, 3, SCHEMA_VERSION)


def write_run(run: Run, path: Path) -> None:
    """Write a run, replacing an older file in one step.

    Raises:
        StoreError: where it cannot be written; an older file is left as it was.
    """
    write_file(path, (dump_run(run) + "\n").encode(errors=HALVES))


def check_writable(path: Path, *, option: str) -> None:
    """Refuse, before anything is measured, a place where the result cannot be written.

    Raises:
        OptionError: naming the place; nothing is left behind.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(21, "is a directory")
        probe = path.with_name(f".{path.name}.{os.getpid()}")
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OptionError(f"{option} {path}: cannot be written: {error.strerror}") from error


def dump_run(run: Run) -> str:
    """Return a run as strict JSON.

    Raises:
        ValueError: for NaN or infinity, which JSON does not have.
    """
    return json.dumps(run.to_dict(), allow_nan=False, indent=1, ensure_ascii=False)


def read_run(path: Path) -> Run:
    """Read a result file.

    Raises:
        StoreError: where it is missing, no result file, or of another schema version.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise StoreError(f"{path}: no saebench result file: not UTF-8") from error
    return parse_run(text, where=str(path))


def parse_run(text: str, *, where: str) -> Run:
    """Return the run that a result file's text holds.

    Raises:
        StoreError: where it is no result file, or of another schema version.
    """
    try:
        content = loads(text)
    except ValueError as error:
        raise StoreError(f"{where}: not valid JSON: {error}") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version not in READ_VERSIONS or isinstance(version, bool):
        raise StoreError(
            f"{where}: schema_version is {version}, this saebench reads {SCHEMA_VERSION}"
        )
    # Version 2 added what a case's numbers rest on; of version 1 that stays unknown.
    current = content | {"schema_version": SCHEMA_VERSION}
    run = validated(Run, current, told=f"{where}: no saebench result file")
    _check_names(run, where)
    try:
        datetime.fromisoformat(run.run.started)
        dump_run(run)  # pydantic makes infinity of "1e999"
    except ValueError as error:
        raise StoreError(f"{where}: no saebench result file: {error}") from error
    return run


def _check_names(run: Run, where: str) -> None:
    """Refuse two SAEs of one id, and cases of SAEs that the run does not have."""
    known = {sae.id for sae in run.saes}
    if len(known) < len(run.saes):
        raise StoreError(f"{where}: no saebench result file: two SAEs of one id")
    for case in run.cases:
        pair = (case.params.get("first"), case.params.get("second"))
        own = pair if "second" in case.params else (case.sae,)
        if not all(isinstance(sae, str) and sae in known for sae in own):
            raise StoreError(f"{where}: no saebench result file: {case.id!r} is of no SAE in it")


def result_schema() -> dict[str, Any]:
    """Return the result file's JSON Schema."""
    from pydantic import TypeAdapter

    return TypeAdapter(Run).json_schema()
