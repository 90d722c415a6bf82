"""The matrix products that a measurement cannot do without, counted from the sizes alone.

The count is GPT-2's: attention with as many key as query heads, an MLP without a gate. Norms,
activation functions, softmax and noise are not counted: what is left out makes the floor lower.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a GPT-2."""

    layers: int
    d_model: int
    d_mlp: int
    heads: int
    d_head: int
    vocab: int


@dataclass(frozen=True)
class Work:
    """What is measured.

    Attributes:
        sequences: number of sequences.
        context: tokens in each; all but the first are scored.
        resumed_from: for every substitution, the block from which the model is run again.
        resumed_once: the same of substitutions that give the same in every sequence: one is run.
        saes: how many SAEs encode and decode every scored token.
        d_sae: their features.
        active: features that fire at a token.
    """

    sequences: int
    context: int
    resumed_from: tuple[int, ...]
    saes: int
    d_sae: int
    active: int
    resumed_once: tuple[int, ...] = ()


@dataclass(frozen=True)
class Product:
    """``times`` products of [rows, inner] and [inner, columns] matrices.

    Attributes:
        share: part of the result that is needed: causal attention reads half of its scores.
        batched: the products are small, one for each head, and run as one batch.
        sparse: the rows of the second matrix are gathered, not multiplied by zeros.
    """

    name: str
    rows: int
    inner: int
    columns: int
    times: int
    share: float = 1.0
    batched: bool = False
    sparse: bool = False

    @property
    def flops(self) -> float:
        """Multiplications and additions."""
        return 2.0 * self.rows * self.inner * self.columns * self.times * self.share


def block_products(
    shape: ModelShape, *, sequences: int, context: int, times: int, causal: bool = True
) -> tuple[Product, ...]:
    """Return the products of ``times`` transformer blocks.

    Args:
        shape: the model.
        sequences: number of sequences.
        context: tokens in each.
        times: blocks.
        causal: count only the scores at or before each token, (T + 1)/2 of T on average; a
            kernel without that knowledge computes all of them.
    """
    rows, heads_wide = sequences * context, shape.heads * shape.d_head
    share = (context + 1) / (2 * context) if causal else 1.0
    in_heads = sequences * shape.heads * times
    return (
        Product("qkv", rows, shape.d_model, 3 * heads_wide, times),
        Product("scores", context, shape.d_head, context, in_heads, share, batched=True),
        Product("values", context, context, shape.d_head, in_heads, share, batched=True),
        Product("attention out", rows, heads_wide, shape.d_model, times),
        Product("mlp in", rows, shape.d_model, shape.d_mlp, times),
        Product("mlp out", rows, shape.d_mlp, shape.d_model, times),
    )


def products(shape: ModelShape, work: Work, *, causal: bool = True) -> tuple[Product, ...]:
    """Return all products: clean pass, SAEs, resumed passes, unembeddings.

    Example:
        >>> shape = ModelShape(layers=2, d_model=8, d_mlp=32, heads=2, d_head=4, vocab=50)
        >>> work = Work(1, 4, resumed_from=(1,), saes=1, d_sae=16, active=2)
        >>> [(p.rows, p.times) for p in products(shape, work) if p.name == "unembedding"]
        [(6, 1)]
    """
    scored = work.sequences * (work.context - 1)
    blocks = shape.layers + _blocks_from(work.resumed_from, shape)
    once = _blocks_from(work.resumed_once, shape)
    length = {"context": work.context, "causal": causal}
    unembedded = scored * (1 + len(work.resumed_from))
    return (
        *block_products(shape, sequences=work.sequences, times=blocks, **length),
        *(block_products(shape, sequences=1, times=once, **length) if once else ()),
        Product("sae encode", scored, shape.d_model, work.d_sae, work.saes),
        Product("sae decode", scored, work.active, shape.d_model, work.saes, sparse=True),
        Product(
            "unembedding",
            unembedded + (work.context - 1) * len(work.resumed_once),
            shape.d_model,
            shape.vocab,
            1,
        ),
    )


def _blocks_from(starts: Iterable[int], shape: ModelShape) -> int:
    return sum(shape.layers - start for start in starts)


def total_flops(counted: Iterable[Product]) -> float:
    """Return the sum over products."""
    return sum(product.flops for product in counted)
