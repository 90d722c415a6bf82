"""JSON as its standard has it: no NaN, no infinity, no nesting that breaks the reader."""

import json
import math
from typing import Any, NoReturn

HALVES = "backslashreplace"
"""How halves of surrogate pairs are encoded: what this writes for them is JSON's own escape."""


def loads(text: str) -> Any:
    """Return the value that a JSON text holds.

    Raises:
        ValueError: for anything that is not JSON, NaN, Infinity and what is as large included.

    Example:
        >>> loads('{"a": 1}')
        {'a': 1}
    """
    try:
        return json.loads(text, parse_constant=_refused, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _finite(number: str) -> float:
    value = float(number)
    return value if math.isfinite(value) else _refused(number)


def _refused(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
