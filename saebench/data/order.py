"""The order in which a run takes documents and prompts: drawn by its seed, or the file's own."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Generic, Protocol, TypeVar

import numpy as np

from saebench.options import Order
from saebench.records.document_order import DRAWN, GENERATED, IN_FILE

BUFFER = 10_000  # items of a stream to draw from
BLOCK = 1024  # items of a file that are looked up together
STREAM = 0x0D0C  # sets the seeds of orders apart from those of noise

Item = TypeVar("Item")
To = TypeVar("To")
Item_co = TypeVar("Item_co", covariant=True)


class Indexed(Protocol[Item_co]):
    """Items that can be read at any place."""

    def __len__(self) -> int:
        """Return their number."""
        ...

    def at(self, places: Sequence[int]) -> Iterator[Item_co]:
        """Yield the items at some places, in the order of the places."""
        ...


class Mapped(Generic[Item, To]):
    """Items of a source, each converted as it is read.

    Args:
        source: the items.
        convert: returns what becomes of one.
    """

    def __init__(self, source: Indexed[Item], convert: Callable[[Item], To]) -> None:
        self._source = source
        self._convert = convert

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self._source)

    def at(self, places: Sequence[int]) -> Iterator[To]:
        """Yield the converted items at some places."""
        return map(self._convert, self._source.at(places))


@dataclass(frozen=True)
class Ways(Generic[Item]):
    """Ways to read a source other than from its start to its end.

    Attributes:
        indexed: opens the source for reading at any place; None for a stream.
        stream: yields functions that return the items, shard after shard; the shards' order is
            drawn by the generator. None for a source without shards.
        independent: True if every item was drawn independently of the others, so that the first
            ones represent the source as well as any.
    """

    indexed: Callable[[], Indexed[Item]] | None = None
    stream: Callable[[np.random.Generator], Iterator[Callable[[], Item]]] | None = None
    independent: bool = False

    def converted(self, convert: Callable[[Item], To]) -> "Ways[To]":
        """Return the ways to read what becomes of the items; only those that are taken are."""
        opened, stream = self.indexed, self.stream
        return Ways(
            None if opened is None else lambda: Mapped(opened(), convert),
            None if stream is None else lambda rng: _converted(stream(rng), convert),
            self.independent,
        )


class Rereadable(Generic[Item]):
    """An iterator that can be read again from the start, and never further than needed.

    Args:
        source: the iterator; what was read of it stays in memory.
    """

    def __init__(self, source: Iterator[Item]) -> None:
        self._source = source
        self._seen: list[Item] = []

    def __iter__(self) -> Iterator[Item]:
        """Read the items from the start."""
        at = 0
        while True:
            if at == len(self._seen):
                try:
                    self._seen.append(next(self._source))
                except StopIteration:
                    return
            yield self._seen[at]
            at += 1


@dataclass(frozen=True)
class Ordered(Generic[Item]):
    """The items of a source in the order in which a run takes them.

    Attributes:
        order: the order in words, for the result file.
        read: yields the items from the first, each with its place in the source.
    """

    order: str
    read: Callable[[], Iterator[tuple[int, Item]]]


def ordered(
    read: Callable[[], Iterator[Item]], ways: Ways[Item], *, order: Order, seed: int, kind: str
) -> Ordered[Item]:
    """Return a source's items in the order in which a run takes them.

    The order depends on the seed and the source alone: the items of a smaller run are the first
    of a larger run's. A source that can be read at any place is permuted as a whole. A stream is
    drawn from through a buffer, which holds its next :data:`BUFFER` items.

    Args:
        read: yields the items from the source's start.
        ways: the other ways to read it.
        order: drawn by the seed, or the file's.
        seed: the run's.
        kind: what the items are, in the plural: documents or prompts.

    Example:
        >>> letters = ordered(lambda: iter("abc"), Ways(), order=Order.FILE, seed=0, kind="letters")
        >>> list(letters.read()), letters.order
        ([(0, 'a'), (1, 'b'), (2, 'c')], "in the file's order")
    """
    if ways.independent:
        return Ordered(GENERATED, lambda: enumerate(read()))
    if order is Order.FILE:
        return Ordered(IN_FILE, lambda: enumerate(read()))
    if ways.indexed is not None:
        said = f"{DRAWN} {seed} from all {kind}"
        return Ordered(said, partial(_permuted, cache(ways.indexed), seed))
    said = f"{DRAWN} {seed} through a buffer of {BUFFER:,} {kind}"
    items = ways.stream or (lambda _: (partial(_same, item) for item in read()))
    drawn = Rereadable(_through_buffer(items, seed))
    return Ordered(said, partial(iter, drawn))


def _generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, STREAM]))


def _permuted(open_indexed: Callable[[], Indexed[Item]], seed: int) -> Iterator[tuple[int, Item]]:
    source = open_indexed()
    places = _generator(seed).permutation(len(source))
    for start in range(0, len(places), BLOCK):
        block = places[start : start + BLOCK].tolist()
        yield from zip(block, source.at(block), strict=True)


def _through_buffer(
    items: Callable[[np.random.Generator], Iterator[Callable[[], Item]]], seed: int
) -> Iterator[tuple[int, Item]]:
    """Yield a stream's items, each drawn from the next ones that were not yet taken."""
    rng = _generator(seed)
    buffer: list[tuple[int, Callable[[], Item]]] = []
    for entry in enumerate(items(rng)):
        if len(buffer) < BUFFER:
            buffer.append(entry)
            continue
        drawn = int(rng.integers(BUFFER))
        (place, item), buffer[drawn] = buffer[drawn], entry
        yield place, item()
    for drawn in rng.permutation(len(buffer)).tolist():
        place, item = buffer[drawn]
        yield place, item()


def _converted(
    items: Iterator[Callable[[], Item]], convert: Callable[[Item], To]
) -> Iterator[Callable[[], To]]:
    return (partial(_apply, convert, item) for item in items)


def _apply(convert: Callable[[Item], To], item: Callable[[], Item]) -> To:
    return convert(item())


def _same(item: Item) -> Item:
    return item
