"""The report's sections: each module here declares ``SECTIONS``, for the properties it is about."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules

from saebench.report.charts import Figure
from saebench.report.material import Material
from saebench.report.tables import Table


def _no_figures(_: Material) -> Iterable[Figure]:
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
        figures: yields the figures whose series the run has.
        tables: yields the tables, likewise.
    """

    name: str
    title: str
    question: str
    order: int
    figures: Callable[[Material], Iterable[Figure]] = _no_figures
    tables: Callable[[Material], Iterable[Table]] = _no_tables


def sections() -> Iterator[Section]:
    """Yield every section, in their order."""
    names = (f"{__name__}.{module.name}" for module in iter_modules(__path__))
    known = [section for name in names for section in import_module(name).SECTIONS]
    yield from sorted(known, key=lambda section: (section.order, section.name))
