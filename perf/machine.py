"""How fast this machine multiplies matrices of the shapes that occur."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import product as pairs

import torch
from torch import Tensor

from perf.flops import Product
from perf.timing import wall

# Tiles that stay in the cache, and whole batches: the fastest way to cut a product counts.
ROWS = {"cpu": (256, 1024), "cuda": (4096, 32_768)}
COLUMNS = {"cpu": (4096, 1 << 20), "cuda": (1 << 20,)}
HEADS_AT_ONCE = 96
TRIES = 3


@dataclass
class Rates:
    """The best rate seen for each product's shape, in FLOP/s.

    A machine that others use too is at times slow, never too fast: the best of many samples is
    its rate.

    Attributes:
        best: by the product's name.
        clock: gives seconds.
        device: where matrices are multiplied.
    """

    best: dict[str, float] = field(default_factory=dict)
    clock: Callable[[], float] = wall
    device: str = "cpu"

    def sample(self, counted: Iterable[Product]) -> None:
        """Measure each shape once more."""
        for product in counted:
            if not product.sparse:
                cuts = _cuts(product, ROWS[self.device], COLUMNS[self.device])
                found = max(self._rate(product, rows, columns) for rows, columns in cuts)
                self.best[product.name] = max(found, self.best.get(product.name, 0.0))

    def seconds(self, counted: Iterable[Product]) -> float:
        """Return how long the products take at these rates, at least.

        Gathered rows are counted at the best rate of all: they are few.

        Raises:
            ValueError: where nothing was sampled.
        """
        top = max(self.best.values())
        return sum(p.flops / self.best.get(p.name, top) for p in counted)

    def _rate(self, product: Product, rows: int, columns: int) -> float:
        heads = min(HEADS_AT_ONCE, product.times) if product.batched else 1
        left = torch.ones(heads, rows, product.inner, device=self.device)
        right = torch.ones(heads, product.inner, columns, device=self.device)
        out = torch.empty(heads, rows, columns, device=self.device)
        if not product.batched:
            left, right, out = left[0], right[0], out[0]
        seconds = min(self._timed(left, right, out) for _ in range(TRIES))
        return 2.0 * heads * rows * product.inner * columns / seconds

    @torch.inference_mode()
    def _timed(self, left: Tensor, right: Tensor, out: Tensor) -> float:
        start = self.clock()
        torch.matmul(left, right, out=out)
        return self.clock() - start


def _cuts(
    product: Product, most_rows: Iterable[int], most_columns: Iterable[int]
) -> Iterator[tuple[int, int]]:
    if product.batched:
        yield product.rows, product.columns
        return
    rows = sorted({min(cut, product.rows) for cut in most_rows})
    columns = sorted({min(cut, product.columns) for cut in most_columns})
    yield from pairs(rows, columns)
