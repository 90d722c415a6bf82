"""Inputs for fuzzing: valid files, changed in their bytes or structure, and random bytes."""

import copy
import json
from typing import Any

from hypothesis import strategies as st

JUNK: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 10**12, 10**40, 1.5, -0.0, 1e308, float("nan"),
    float("inf"), "", "x", "\x00", "\x1b[31m", "\ud800", "‮", "../../x", "/etc/passwd", "NUL",
    "a" * 5000, "²", "1e999", [], {}, [[]], [None], [1, 2, 3], {"": {}}, [0.1] * 40,
    {"a": [{"b": [{"c": [{}]}]}]},
)  # fmt: skip


def bytes_like(*seeds: bytes) -> st.SearchStrategy[bytes]:
    """Give valid content with some bytes changed, cut or repeated; now and then junk."""
    changed = st.builds(_changed, st.sampled_from(seeds), st.lists(_EDIT, min_size=1, max_size=4))
    return st.one_of(changed, changed, changed, st.binary(max_size=200))


def json_like(*seeds: bytes) -> st.SearchStrategy[bytes]:
    """Give valid JSON with values replaced, keys lost or renamed; now and then bytes changed."""
    values = [json.loads(seed) for seed in seeds]
    edits = st.lists(st.tuples(_PLACE, _JUNK, st.integers(0, 5)), min_size=1, max_size=3)
    restructured = st.builds(_restructured, st.sampled_from(values), edits)
    return st.one_of(restructured, restructured, restructured, bytes_like(*seeds))


_JUNK = st.sampled_from(JUNK)
_PLACE = st.integers(0, 1 << 16)
_EDIT = st.tuples(_PLACE, st.integers(0, 255), st.sampled_from(("set", "cut", "copy", "insert")))


def _changed(seed: bytes, edits: list[tuple[int, int, str]]) -> bytes:
    content = bytearray(seed)
    for place, byte, how in edits:
        at = place % (len(content) or 1)
        if how == "set" and content:
            content[at] = byte
        elif how == "cut":
            del content[at : at + 1 + byte % 64]
        elif how == "copy":
            content[at:at] = content[at : at + 1 + byte % 64]
        elif how == "insert":
            content[at:at] = bytes([byte])
    return bytes(content)


def _restructured(value: Any, edits: list[tuple[int, Any, int]]) -> bytes:
    value = json.loads(json.dumps(value))
    for place, junk, how in edits:
        junk = copy.deepcopy(junk)  # else it may come to hold itself
        holders = _holders(value)
        if not holders:
            continue
        holder, key = holders[place % len(holders)]
        if how == 0:
            del holder[key]
        elif how == 1 and isinstance(holder, dict):
            holder[f"{key}_"] = holder.pop(key)
        elif how == 2 and isinstance(holder, list):
            holder.insert(key, junk)
        else:
            holder[key] = junk
    return json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass")


def _holders(value: Any) -> list[tuple[Any, Any]]:
    """Return every place in a JSON value, as what holds it and its key there."""
    found: list[tuple[Any, Any]] = []
    inside = [value]
    while inside:
        here = inside.pop()
        keys = list(here) if isinstance(here, dict) else range(len(here))
        found += [(here, key) for key in keys]
        inside += [here[key] for key in keys if isinstance(here[key], dict | list)]
    return found
