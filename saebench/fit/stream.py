"""Activations of a host model, streamed: a pool of them at a time, shuffled within it."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saebench.data.packed import RowSource
from saebench.subjects.hooks import Site
from saebench.subjects.host import Host
from saebench.substitution.batches import read_rows
from saebench.substitution.passes import Passes

POOL_TOKENS = 1 << 16
POOL_NUMBERS = 1 << 26  # of the activations held at once: 268 MB in fp32
ROWS_A_PASS = 32
SPREAD = 0x9E3779B1  # odd: neighbouring seeds are far apart, whatever the pool


@dataclass(frozen=True)
class Place:
    """Where in a stream to go on: the next batch."""

    pool: int = 0
    batch: int = 0


START = Place()


class ActivationStream:
    """Gives batches of activations without end, from any place in the stream alike.

    The model is run up to the hook alone. Rows are taken pool by pool; the tokens of a pool are
    shuffled by the seed and the pool's number, so that a place needs no more than two numbers.

    Args:
        host: the model.
        site: where activations are read.
        rows: the token rows.
        batch_tokens: activations in a batch, about: a pool is cut into equal ones.
        seed: of the shuffling.
        pool_tokens: tokens run at once; chosen from the activations' width where None.

    Raises:
        ValueError: for a batch of less than one token.
    """

    def __init__(
        self,
        host: Host,
        site: Site,
        rows: RowSource,
        *,
        batch_tokens: int,
        seed: int,
        pool_tokens: int | None = None,
    ) -> None:
        if batch_tokens < 1:
            raise ValueError(f"batch_tokens: expected 1 or more, found {batch_tokens}")
        pool = pool_tokens or min(POOL_TOKENS, max(batch_tokens, POOL_NUMBERS // site.width))
        self.batch_tokens = batch_tokens
        self.pool_rows = max(1, pool // rows.context)
        self._host, self._site, self._rows, self._seed = host, site, rows, seed
        self._passes = Passes(host)

    def batches(self, start: Place = START) -> Iterator[tuple[Float[Tensor, "tokens d"], Place]]:
        """Give batches from a place on, each with the place after it."""
        rows = islice(self._rows.endless(), start.pool * self.pool_rows, None)
        number, first = start.pool, start.batch
        while True:
            pool = self._pool(torch.tensor(list(islice(rows, self.pool_rows))))
            batches = order_of(len(pool), seed=self._seed, pool=number).tensor_split(
                max(1, len(pool) // self.batch_tokens)
            )
            for index in range(first, len(batches)):
                last = index + 1 == len(batches)
                after = Place(number + 1) if last else Place(number, index + 1)
                yield pool[batches[index].to(pool.device)], after
            number, first = number + 1, 0

    def first(self, tokens: int) -> Float[Tensor, "tokens d"]:
        """Return the first activations in the rows' order; of one pool and one pass at most."""
        rows = list(islice(self._rows.once(), min(self.pool_rows, self._rows_for(tokens))))
        return self._pool(torch.tensor(rows))[:tokens]

    def once(self, tokens: int) -> Iterator[Float[Tensor, "tokens d"]]:
        """Give the activations of one pass in the rows' order, a pool at a time."""
        rows = islice(self._rows.once(), self._rows_for(tokens))
        while some := list(islice(rows, self.pool_rows)):
            yield self._pool(torch.tensor(some))

    def _rows_for(self, tokens: int) -> int:
        return -(-tokens // max(1, self._rows.context - 1))

    def _pool(self, ids: Int[Tensor, "rows context"]) -> Float[Tensor, "tokens d"]:
        counted = torch.ones_like(ids, dtype=torch.bool)
        counted[:, 0] = False
        for special in self._rows.special_ids:
            counted &= ids != special
        device = self._host.device
        parts = zip(ids.split(ROWS_A_PASS), counted.split(ROWS_A_PASS), strict=True)
        found = [self._read(some.to(device), mask.to(device)) for some, mask in parts]
        # Outside inference mode what is joined is an ordinary tensor, which autograd may keep.
        return torch.cat(found)

    def _read(self, ids: Tensor, counted: Tensor) -> Tensor:
        clean = self._passes.clean(ids, [self._site], stop_early=True)
        return read_rows(self._site, clean.activations[self._site], counted)


def order_of(length: int, *, seed: int, pool: int) -> Int[Tensor, "length"]:
    """Return the order in which a pool's elements are given.

    Example:
        >>> sorted(order_of(4, seed=1, pool=0).tolist())
        [0, 1, 2, 3]
    """
    # torch's Mersenne twister takes 32 bits: a seed in the upper ones would have no effect.
    mixed = (seed * SPREAD + pool) & 0xFFFFFFFF
    return torch.randperm(length, generator=torch.Generator().manual_seed(mixed))


POOL_ROWS = 512


class RowStream:
    """Gives batches of whole rows without end, from any place in the stream alike.

    Args:
        rows: the token rows.
        batch_rows: rows in a batch.
        seed: of the shuffling.
        pool_rows: rows that are shuffled together.

    Raises:
        ValueError: for a batch of less than one row.
    """

    def __init__(
        self, rows: RowSource, *, batch_rows: int, seed: int, pool_rows: int = POOL_ROWS
    ) -> None:
        if batch_rows < 1:
            raise ValueError(f"batch_rows: expected 1 or more, found {batch_rows}")
        self._rows, self._seed = rows, seed
        self._batch, self.pool_rows = batch_rows, max(batch_rows, pool_rows)

    def batches(self, start: Place = START) -> Iterator[tuple[Int[Tensor, "rows context"], Place]]:
        """Give batches from a place on, each with the place after it."""
        rows = islice(self._rows.endless(), start.pool * self.pool_rows, None)
        number, first = start.pool, start.batch
        while True:
            pool = torch.tensor(list(islice(rows, self.pool_rows)))
            order = order_of(len(pool), seed=self._seed, pool=number)
            batches = order.tensor_split(max(1, len(pool) // self._batch))
            for index in range(first, len(batches)):
                last = index + 1 == len(batches)
                yield pool[batches[index]], Place(number + 1) if last else Place(number, index + 1)
            number, first = number + 1, 0


def counted_of(
    ids: Int[Tensor, "rows context"], special_ids: frozenset[int]
) -> Bool[Tensor, "rows context"]:
    """Return which tokens count: all but the first of each row, and special ones.

    Example:
        >>> counted_of(torch.tensor([[1, 5, 1, 6]]), frozenset({1})).tolist()
        [[False, True, False, True]]
    """
    counted = torch.ones_like(ids, dtype=torch.bool)
    counted[:, 0] = False
    for special in special_ids:
        counted &= ids != special
    return counted
