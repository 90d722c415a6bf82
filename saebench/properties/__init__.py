"""Registry of the faithfulness properties: saebench's own, and installed distributions'.

A distribution adds a property by an entry point of the group ``saebench.properties``; the entry
point's name is the property's, and its value names a :class:`Property`.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache

from saebench.errors import OptionError, nearest
from saebench.extensions import Extension, installed_extensions
from saebench.properties.base import Property

__all__ = ["Property", "find_property", "metric_names", "properties"]

GROUP = "saebench.properties"


@cache
def properties() -> Mapping[str, Property]:
    """Return all properties by name.

    Raises:
        OptionError: where an installed distribution's property cannot be used.
    """
    return _built_in() | {each.name: _loaded(each) for each in _installed()}


def find_property(name: str) -> Property:
    """Return a property by name; a distribution is imported only for its own properties.

    Raises:
        OptionError: for an unknown name, with the nearest known one, and where an installed
            distribution's property cannot be used.
    """
    if name in _built_in():
        return _built_in()[name]
    installed = {each.name: each for each in _installed()}
    if name not in installed:
        raise OptionError(f"unknown property {name!r}{nearest(name, [*_built_in(), *installed])}")
    return _loaded(installed[name])


def metric_names() -> frozenset[str]:
    """Return every metric name that some property can report."""
    return frozenset(spec.name for p in properties().values() for spec in p.metrics)


@cache
def _built_in() -> dict[str, Property]:
    """Return the module-level ``PROPERTY`` of each module of this package, by name."""
    modules = [
        importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)
    ]
    declared = [getattr(module, "PROPERTY", None) for module in modules]
    return {each.name: each for each in declared if each is not None}


@cache
def _installed() -> tuple[Extension, ...]:
    return installed_extensions(GROUP, kind="property", error=OptionError, reserved=_built_in())


@cache
def _loaded(extension: Extension) -> Property:
    """Import a distribution's property and check that its names are its own."""
    declared = extension.load()
    if not isinstance(declared, Property):
        raise extension.failure(f"is a {type(declared).__name__}, expected a saebench Property")
    if declared.name != extension.name:
        raise extension.failure(
            f"calls itself {declared.name!r}; the entry point must have the property's name"
        )
    foreign = [m.name for m in declared.metrics if m.name.partition(".")[0] != declared.name]
    if foreign:
        raise extension.failure(
            f"has a metric {foreign[0]!r}; a metric's name begins with its property's: "
            f"{declared.name}.{foreign[0].rpartition('.')[2]}"
        )
    return declared
