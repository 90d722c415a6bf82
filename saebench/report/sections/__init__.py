"""The report's sections, one module for each property: a new one is one file here.

A module declares ``SECTION``, and ``ORDER`` where it belongs among the others.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules

from saebench.report.charts import Figure, Table
from saebench.report.queries import Material


def _nothing(_: Material) -> Iterable[Figure]:
    return ()


def _no_tables(_: Material) -> Iterable[Table]:
    return ()


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        name: the property that it is about, or another name.
        title: for people.
        question: what it answers, in one sentence.
        order: its place among the sections.
        figures: draws what the run has the series of; nothing where it has none.
        tables: likewise.
    """

    name: str
    title: str
    question: str
    order: int
    figures: Callable[[Material], Iterable[Figure]] = _nothing
    tables: Callable[[Material], Iterable[Table]] = _no_tables


def sections() -> Iterator[Section]:
    """Give every section, in their order."""
    found = [
        import_module(f"{__name__}.{module.name}").SECTION for module in iter_modules(__path__)
    ]
    yield from sorted(found, key=lambda section: (section.order, section.name))
