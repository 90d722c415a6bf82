"""Encoding of measurements as bytes: arrays and JSON of known classes, which cannot run code."""

import io
import json
from collections.abc import Mapping
from dataclasses import is_dataclass
from importlib import import_module
from typing import Any

import numpy as np
from scipy.sparse import csr_array, issparse

import saebench.errors
from saebench.errors import SaebenchError, StoreError
from saebench.experiments.base import EXPERIMENTS, Results
from saebench.experiments.one_token import Example
from saebench.measures.histogram import LogHistogram
from saebench.measures.state import State, sent_fields
from saebench.measures.sums import TokenSums
from saebench.records.inputs import DatasetRecord
from saebench.records.run import Cost

for _kind in EXPERIMENTS:
    import_module(_kind.carried_out_by.partition(":")[0])  # registers its states

TREE = "tree"


def encode(value: Any) -> bytes:
    """Return a measurement, or mappings and sequences of them, as bytes.

    Fields that cannot be sent, such as functions, are left out.

    Raises:
        TypeError: for a value of an unknown class.

    Example:
        >>> decode(encode({"one": (1, np.array([2.0]))}))
        {'one': (1, array([2.]))}
    """
    arrays: list[np.ndarray] = []
    tree = json.dumps(_packed(value, arrays))
    tables = {str(i): table for i, table in enumerate(arrays)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **tables, **{TREE: np.array(tree)})
    return buffer.getvalue()


def decode(data: bytes) -> Any:
    """Return the value that was encoded.

    Raises:
        StoreError: if the bytes are not from :func:`encode`.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            tables = {name: file[name] for name in file.files}
        return _unpacked(json.loads(str(tables.pop(TREE))), tables)
    except Exception as error:
        # Damaged bytes raise errors of every kind in numpy, zipfile and our classes.
        raise StoreError(f"not a measurement that saebench wrote: {error}") from error


def _packed(value: Any, arrays: list[np.ndarray]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {"array": len(arrays) - 1}
    if issparse(value):
        parts = (value.data, value.indices, value.indptr, tuple(value.shape))
        return {"sparse": [_packed(part, arrays) for part in parts]}
    if isinstance(value, SaebenchError):
        return {"error": [type(value).__name__, str(value)]}
    return _packed_container(value, arrays)


def _packed_container(value: Any, arrays: list[np.ndarray]) -> Any:
    name = type(value).__name__
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_packed(each, arrays) for each in value]}
    if isinstance(value, Mapping):
        return {"map": [[_packed(k, arrays), _packed(v, arrays)] for k, v in value.items()]}
    if is_dataclass(value) and _classes().get(name) is type(value):
        own = {k: _packed(v, arrays) for k, v in sent_fields(value).items()}
        return {"class": [name, own]}
    raise TypeError(f"{name} is not a measurement")


def _classes() -> dict[str, type]:
    """Return the classes that bytes may name: the states, and the classes of their values."""
    plain = (Cost, DatasetRecord, Example, LogHistogram, Results, TokenSums)
    return State.CLASSES | {each.__name__: each for each in plain}


def _unpacked(tree: Any, tables: Mapping[str, np.ndarray]) -> Any:
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()

    def inner(each: Any) -> Any:
        return _unpacked(each, tables)

    decoders = {
        "array": lambda: tables[str(content)],
        "list": lambda: [inner(each) for each in content],
        "tuple": lambda: tuple(inner(each) for each in content),
        "map": lambda: {inner(k): inner(v) for k, v in content},
        "sparse": lambda: _sparse(*map(inner, content)),
        "error": lambda: _error(content[0])(content[1]),
        "class": lambda: _instance(content[0], {k: inner(v) for k, v in content[1].items()}),
    }
    return decoders[kind]()


def _sparse(data: Any, indices: Any, indptr: Any, shape: Any) -> csr_array:
    return csr_array((data, indices, indptr), shape=shape)


def _instance(name: str, values: dict[str, Any]) -> Any:
    return _classes()[name](**values)


def _error(name: str) -> type[SaebenchError]:
    kind = getattr(saebench.errors, name)
    if not (isinstance(kind, type) and issubclass(kind, SaebenchError)):
        raise ValueError(f"{name} is not an error of saebench")
    return kind
