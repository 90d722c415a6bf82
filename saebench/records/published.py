"""Figures that papers report, for reading next to measured metrics; they are never ranked."""

from dataclasses import dataclass

from saebench.records.schema import Schema


@dataclass(frozen=True)
class Source:
    """The work that figures were published in."""

    authors: str
    year: int
    title: str
    url: str | None = None


@dataclass(frozen=True)
class Figure:
    """One figure as it was published.

    Attributes:
        name: as in the source.
        unit: of the value.
        value: the figure; None for a range, or for one in words.
        low: lower end of a range.
        high: upper end of a range.
        says: a figure in words.
        like: the saebench metric that answers the same question, measured otherwise; None where
            there is none.
    """

    name: str
    unit: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    says: str | None = None
    like: str | None = None


@dataclass(frozen=True)
class PublishedRow:
    """The figures of one SAE."""

    sae: str
    hook: str
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Published:
    """The figures of one source, and the conditions that they were measured under."""

    schema_version: int
    model: str
    source: Source
    conditions: str
    rows: tuple[PublishedRow, ...]


PUBLISHED_FIGURES = Schema(Published, 1, "published figures")
