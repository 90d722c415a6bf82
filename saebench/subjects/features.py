"""Active features in sparse form, computed by tiles of features to save memory traffic."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

INDEPENDENT = ("standard", "jumprelu", "gated")  # no feature depends on another one
TILE = 2048  # features
SPARSE_FROM = 4096  # features; below, the dense product is as fast as gathering
SPARSE_SHARE = 0.05  # of features that fire; above, the dense product is as fast


@dataclass(frozen=True)
class Watch:
    """What to record of some tokens' features beyond how often they fire.

    Attributes:
        group: the group that each token belongs to, counted from 0.
        groups: number of groups.
        chosen: features whose share of each token's activation mass is recorded.
    """

    group: Int[Tensor, "tokens"]
    groups: int
    chosen: Int[Tensor, "chosen"]

    def split(self, size: int) -> "Iterator[Watch]":
        """Yield the watches of consecutive tokens, ``size`` at a time."""
        for group in self.group.split(size):
            yield replace(self, group=group)


@dataclass(frozen=True)
class Usage:
    """How some tokens used the features.

    Attributes:
        mass: Σ|f|·‖d‖ of each feature, or Σ|f| without a decoder matrix; float64.
        lowest: the lowest group in which each feature fires, counted from 1; 0 if in none.
        highest: the highest one, likewise.
        chosen_mass: the mass of the chosen features, at each token.
    """

    mass: Float64[Tensor, "features"]
    lowest: Int[Tensor, "features"]
    highest: Int[Tensor, "features"]
    chosen_mass: Float[Tensor, "tokens"]

    @classmethod
    def joined(cls, parts: "Sequence[Usage]") -> "Usage":
        """Return the usage of consecutive tokens together."""
        lowest = torch.stack([p.lowest for p in parts])
        never = torch.iinfo(lowest.dtype).max
        lowest = lowest.masked_fill(lowest == 0, never).amin(dim=0)
        return cls(
            torch.stack([p.mass for p in parts]).sum(dim=0),
            lowest.masked_fill(lowest == never, 0),
            torch.stack([p.highest for p in parts]).amax(dim=0),
            torch.cat([p.chosen_mass for p in parts]),
        )

    @classmethod
    def dense(
        cls,
        size: Float[Tensor, "tokens features"],
        active: Bool[Tensor, "tokens features"],
        norm: Float[Tensor, "features"],
        watch: Watch,
    ) -> "Usage":
        """Return the usage of a table of features.

        Args:
            size: |f|, in fp32.
            active: which fire.
            norm: what each feature's size is multiplied by.
            watch: what to record.

        Example:
            >>> size = torch.tensor([[0.0, 2.0], [0.0, 1.0]])
            >>> watch = Watch(torch.tensor([0, 2]), 3, torch.tensor([1]))
            >>> usage = Usage.dense(size, size != 0, torch.ones(2), watch)
            >>> usage.mass.tolist(), usage.lowest.tolist(), usage.highest.tolist()
            ([0.0, 3.0], [0, 1], [0, 3])
        """
        # One byte a feature, and one pass for each end: several times as fast as wider integers.
        narrow = torch.uint8 if watch.groups < 255 else torch.int32
        code = (watch.group + 1).to(narrow)[:, None]
        fires = active.view(torch.uint8) if narrow == torch.uint8 else active
        highest = (fires * code).amax(dim=0).long()
        lowest = (fires * (watch.groups + 1 - code)).amax(dim=0).long()
        return cls(
            size.sum(dim=0).double() * norm.double(),
            torch.where(lowest > 0, watch.groups + 1 - lowest, 0),
            highest,
            size[:, watch.chosen] @ norm[watch.chosen],
        )

    @classmethod
    def sparse(cls, active: "Active", norm: Float[Tensor, "features"], watch: Watch) -> "Usage":
        """Return the same of the features that fired, token by token."""
        mass = active.value.abs().float() * norm[active.feature]
        code = watch.group[active.token] + 1
        ends = torch.zeros(len(norm), dtype=torch.int64, device=norm.device)
        low, high = (
            ends.scatter_reduce(0, active.feature, code, how, include_self=False)
            for how in ("amin", "amax")
        )
        of_chosen = torch.zeros_like(norm)
        of_chosen[watch.chosen] = 1.0
        total = torch.zeros(len(norm), dtype=torch.float64, device=norm.device)
        return cls(
            total.index_add_(0, active.feature, mass.double()),
            low,
            high,
            active.by_token(mass * of_chosen[active.feature]),
        )


@dataclass(frozen=True)
class Active:
    """The features that fired, token by token."""

    token: Int[Tensor, "active"]
    feature: Int[Tensor, "active"]
    value: Float[Tensor, "active"]
    counts: Int[Tensor, "tokens"]

    @classmethod
    def of(cls, features: Float[Tensor, "tokens features"]) -> "Active":
        """Return the features that are not zero.

        Example:
            >>> Active.of(torch.tensor([[0.0, 2.0], [0.0, 0.0]])).counts
            tensor([1, 0])
        """
        token, feature = features.nonzero(as_tuple=True)
        counts = torch.bincount(token, minlength=len(features))
        return cls(token, feature, features[token, feature], counts)

    @classmethod
    def joined(cls, tiles: Sequence["Active"], starts: Sequence[int]) -> "Active":
        """Return the features of several tiles, each of which numbers its features from its start.

        Example:
            >>> tile = Active.of(torch.tensor([[0.0, 2.0], [1.0, 0.0]]))
            >>> Active.joined([tile, tile], [0, 2]).feature
            tensor([1, 3, 0, 2])
        """
        token = torch.cat([tile.token for tile in tiles])
        feature = torch.cat([t.feature + start for t, start in zip(tiles, starts, strict=True)])
        # A stable sort keeps the tiles' order, hence that of each token's features.
        order = token.argsort(stable=True)
        value = torch.cat([tile.value for tile in tiles])
        counts = torch.stack([tile.counts for tile in tiles]).sum(dim=0)
        return cls(token[order], feature[order], value[order], counts)

    def by_token(self, values: Float[Tensor, "active"]) -> Float[Tensor, "tokens"]:
        """Sum values over each token's features."""
        return values.new_zeros(len(self.counts)).index_add_(0, self.token, values)

    def decoded(
        self,
        weight: Float[Tensor, "features d"],
        bias: Float[Tensor, "d"],
        *,
        rescaled: bool,
    ) -> Float[Tensor, "tokens d"]:
        """Sum the decoder rows of the features that fired, instead of multiplying by zeros.

        Args:
            weight: the decoder's weight.
            bias: the decoder's bias.
            rescaled: whether encode multiplied features by their rows' norm, which is undone.

        Example:
            >>> features = torch.tensor([[0.0, 2.0], [0.0, 0.0]])
            >>> weight, bias = torch.eye(2), torch.ones(2)
            >>> Active.of(features).decoded(weight, bias, rescaled=False).tolist()
            [[1.0, 3.0], [1.0, 1.0]]
        """
        value = self.value
        if rescaled:
            value = value / weight.norm(dim=-1)[self.feature]
        begins = self.counts.cumsum(0) - self.counts
        rows = F.embedding_bag(self.feature, weight, begins, per_sample_weights=value, mode="sum")
        return rows + bias


def tiles_of(sae: Any, d_sae: int) -> Iterator[tuple[int, Any]]:
    """Yield views of an SAE with a few features each, and the index of their first feature.

    Args:
        sae: a SAELens SAE of an architecture in ``INDEPENDENT``.
        d_sae: its number of features, different from its other sizes.
    """
    for start in range(0, d_sae, TILE):
        tile = copy.copy(sae)
        chosen = slice(start, start + TILE)
        tile._parameters = {
            name: None if value is None else _cut(value, chosen, d_sae)
            for name, value in sae._parameters.items()
        }
        yield start, tile


def _cut(value: Tensor, features: slice, d_sae: int) -> Tensor:
    if value.shape[-1:] == (d_sae,):
        return value.detach()[..., features]
    return value.detach()[features] if value.shape[:1] == (d_sae,) else value
