"""Published figures: what papers report, to be read beside our own, never ranked with it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """Where figures were published."""

    authors: str
    year: int
    title: str
    url: str | None = None


@dataclass(frozen=True)
class Figure:
    """One figure as it was published.

    Attributes:
        name: what the source calls it.
        unit: of the value.
        value: the figure; None for a range, or for one told in words.
        low: lower end of a range.
        high: upper end of a range.
        says: a figure told in words.
        like: our metric that asks the same question, measured otherwise; None where none does.
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
    """The figures of one source, and what they were measured on."""

    schema_version: int
    model: str
    source: Source
    conditions: str
    rows: tuple[PublishedRow, ...]
