"""What a fit trains on: a model's activations, or token rows, shuffled pool by pool."""

from collections.abc import Callable, Iterator
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
POOL_NUMBERS = 1 << 26  # of the activations in memory at once: 268 MB in fp32
POOL_ROWS = 512
ROWS_A_PASS = 32
SPREAD = 0x9E3779B1  # odd: neighbouring seeds are far apart, whatever the pool


@dataclass(frozen=True)
class Place:
    """A position in a stream: the next batch."""

    pool: int = 0
    batch: int = 0


START = Place()


class ActivationStream:
    """Gives batches of activations without end, from any position in the stream alike.

    The model is run up to the hook alone. Rows are taken pool by pool; the tokens of a pool are
    shuffled by the seed and the pool's number, so that a position needs no more than two numbers.

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
        """Give batches from a position on, each with the position after it."""
        pools = _pools(self._rows, start, pool_rows=self.pool_rows, read=self._read)
        return _shuffled(pools, start, batch=self.batch_tokens, seed=self._seed)

    def first(self, tokens: int) -> Float[Tensor, "tokens d"]:
        """Return the first activations in the rows' order; of one pool and one pass at most."""
        rows = list(islice(self._rows.once(), min(self.pool_rows, self._rows_for(tokens))))
        return self._read(torch.tensor(rows))[:tokens]

    def once(self, tokens: int) -> Iterator[Float[Tensor, "tokens d"]]:
        """Give the activations of one pass in the rows' order, a pool at a time."""
        rows = islice(self._rows.once(), self._rows_for(tokens))
        while some := list(islice(rows, self.pool_rows)):
            yield self._read(torch.tensor(some))

    def _rows_for(self, tokens: int) -> int:
        return -(-tokens // max(1, self._rows.context - 1))

    def _read(self, ids: Int[Tensor, "rows context"]) -> Float[Tensor, "tokens d"]:
        """Return the activations at the tokens that count."""
        counted = counted_of(ids, self._rows.special_ids)
        device = self._host.device
        parts = zip(ids.split(ROWS_A_PASS), counted.split(ROWS_A_PASS), strict=True)
        # Outside inference mode what is joined is an ordinary tensor, which autograd may keep.
        return torch.cat([self._read_part(i.to(device), mask.to(device)) for i, mask in parts])

    def _read_part(self, ids: Tensor, counted: Tensor) -> Tensor:
        clean = self._passes.clean(ids, [self._site], stop_early=True)
        return read_rows(self._site, clean.activations[self._site], counted)


class RowStream:
    """Gives batches of token rows without end, from any position in the stream alike.

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
        """Give batches from a position on, each with the position after it."""
        pools = _pools(self._rows, start, pool_rows=self.pool_rows, read=lambda ids: ids)
        return _shuffled(pools, start, batch=self._batch, seed=self._seed)


def _pools(
    rows: RowSource, start: Place, *, pool_rows: int, read: Callable[[Tensor], Tensor]
) -> Iterator[Tensor]:
    """Give the pools of an endless stream, from a position's pool on."""
    ids = islice(rows.endless(), start.pool * pool_rows, None)
    while True:
        yield read(torch.tensor(list(islice(ids, pool_rows))))


def _shuffled(
    pools: Iterator[Tensor], start: Place, *, batch: int, seed: int
) -> Iterator[tuple[Tensor, Place]]:
    """Give each pool's shuffled batches, each with the position after it."""
    first = start.batch
    for number, pool in enumerate(pools, start=start.pool):
        order = order_of(len(pool), seed=seed, pool=number)
        batches = order.tensor_split(max(1, len(pool) // batch))
        for index in range(first, len(batches)):
            last = index + 1 == len(batches)
            after = Place(number + 1) if last else Place(number, index + 1)
            yield pool[batches[index].to(pool.device)], after
        first = 0


def order_of(length: int, *, seed: int, pool: int) -> Int[Tensor, "length"]:
    """Return the order in which a pool's elements are given.

    Example:
        >>> sorted(order_of(4, seed=1, pool=0).tolist())
        [0, 1, 2, 3]
    """
    # torch's Mersenne twister takes 32 bits: a seed in the upper ones would have no effect.
    mixed = (seed * SPREAD + pool) & 0xFFFFFFFF
    return torch.randperm(length, generator=torch.Generator().manual_seed(mixed))


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
