"""Versions that configurations name."""

import re
from typing import Any


def is_before(version: Any, other: tuple[int, ...]) -> bool:
    """Return whether a version is known and before another one; 6.0.0-rc.0 is 6.

    Example:
        >>> is_before("5.10.7", (6,)), is_before("6.0.0", (6,)), is_before(None, (6,))
        (True, False, False)
    """
    found = re.match(r"\d+(?:\.\d+)*", version) if isinstance(version, str) else None
    return found is not None and tuple(map(int, found[0].split("."))) < other
