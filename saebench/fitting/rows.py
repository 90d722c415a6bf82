"""Token rows, streamed: a pool of them at a time, shuffled within it."""

from collections.abc import Iterator
from itertools import islice

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saebench.data.packed import RowSource
from saebench.fitting.stream import START, Place, order_of

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
