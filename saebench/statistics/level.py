"""The level of intervals: 95%, or what one of several looks at the data may use."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

LEVEL = 0.95
_CURRENT: ContextVar[float] = ContextVar("level", default=LEVEL)


def current_level() -> float:
    """Return the level that intervals are made at, where nothing else is asked for."""
    return _CURRENT.get()


@contextmanager
def at_level(level: float) -> Iterator[None]:
    """Make all intervals within at a level: every metric of one look at the data is alike.

    Example:
        >>> with at_level(0.99):
        ...     current_level()
        0.99
    """
    token = _CURRENT.set(level)
    try:
        yield
    finally:
        _CURRENT.reset(token)
