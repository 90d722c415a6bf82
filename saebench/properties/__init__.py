"""The faithfulness properties: one module each, found by name."""

import importlib
import pkgutil
from functools import cache

from saebench.errors import OptionError, nearest
from saebench.properties.base import Property

__all__ = ["Property", "find_property", "metric_names", "properties"]


@cache
def properties() -> dict[str, Property]:
    """Return all properties by name: the module-level ``PROPERTY`` of each module here."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        declared = getattr(importlib.import_module(f"{__name__}.{module.name}"), "PROPERTY", None)
        if declared is not None:
            found[declared.name] = declared
    return found


def find_property(name: str) -> Property:
    """Return a property by name.

    Raises:
        OptionError: naming the nearest known one.
    """
    known = properties()
    if name not in known:
        raise OptionError(f"unknown property {name!r}{nearest(name, known)}")
    return known[name]


def metric_names() -> frozenset[str]:
    """Return every metric name that some property can report."""
    return frozenset(spec.name for p in properties().values() for spec in p.metrics)
