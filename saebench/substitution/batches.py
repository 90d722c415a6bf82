"""Batches of sequences: their size, their counted tokens, and checks deferred to their end."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saebench.data.tokens import TokenSet
from saebench.subjects.hooks import Site
from saebench.subjects.host import Host

# Tokens of one pass. On a CPU a larger pass is no faster, and its activations leave the cache; a
# GPU needs many tokens to be fully used.
TOKENS_A_PASS = {"cpu": 2048, "cuda": 32_768}
SHARE_OF_FREE = 0.25
HIDDEN_BYTES = 256 << 20  # of the hidden states of a batch's interventions, on a CPU


def tokens_a_pass(host: Host) -> int:
    """Return how many tokens to run through the model in one pass.

    A pass needs memory for about three vectors of the MLP's width for each token.
    """
    most = TOKENS_A_PASS.get(host.device.type, TOKENS_A_PASS["cuda"])
    width = getattr(host.config, "intermediate_size", None) or 4 * host.d_model
    if isinstance(width, list | tuple):  # some architectures give one for each block
        width = max(width)
    return max(1, min(most, int(_usable_bytes(host.device) / (3 * 4 * width))))


def sequences_at_once(host: Host, *, context: int, vectors: int) -> int:
    """Return how many sequences to put into one batch.

    Args:
        host: the model.
        context: tokens of a sequence.
        vectors: vectors of the residual stream's width that are in memory for every token.
    """
    by_memory = int(_usable_bytes(host.device) / (vectors * context * host.d_model * 4))
    return max(1, min(by_memory, tokens_a_pass(host) // context))


def _usable_bytes(device: torch.device) -> float:
    """Return the bytes that a batch may use: a share of the free memory."""
    if device.type == "cuda":
        return SHARE_OF_FREE * torch.cuda.mem_get_info(device)[0]
    import psutil

    return min(HIDDEN_BYTES, SHARE_OF_FREE * psutil.virtual_memory().available)


class DeferredChecks:
    """Deferred checks: one sync for each batch.

    Reading a value from a GPU waits for the GPU. The conditions of a batch that would need special
    treatment (an undefined direction, an overflow) are therefore collected on the GPU and read
    once, before any result of the batch is used. If one of them holds, the batch is computed again
    with every check made immediately, as it always is on a CPU.

    Args:
        deferred: collect the checks; if False, callers make each check immediately.

    Example:
        >>> checks = DeferredChecks(deferred=True)
        >>> checks.defer(torch.tensor([False, True]))
        True
        >>> checks.any()
        True
        >>> DeferredChecks(deferred=False).defer(torch.tensor([True]))
        False
    """

    def __init__(self, *, deferred: bool) -> None:
        self._deferred = deferred
        self._conditions: list[Tensor] = []

    def defer(self, condition: Bool[Tensor, "*any"]) -> bool:
        """Collect a condition; return False if the caller must check it immediately."""
        if self._deferred:
            self._conditions.append(condition.any())
        return self._deferred

    def any(self) -> bool:
        """True if any collected condition holds anywhere; waits for the GPU."""
        return bool(self._conditions) and bool(torch.stack(self._conditions).any())


IMMEDIATE = DeferredChecks(deferred=False)
Places = Bool[Tensor, "batch pos"] | tuple[Int[Tensor, "tokens"], Int[Tensor, "tokens"]]


def read_rows(
    site: Site, activation: Float[Tensor, "batch pos _"], counted: Places
) -> Float[Tensor, "tokens width"]:
    """Return the counted tokens' activations in fp32, as the SAE is given them.

    Args:
        site: which components of the activation, and whether they are centred.
        activation: the activations.
        counted: a mask, or the row and position of each counted token.
    """
    x = activation[counted][:, _head(site)].float()
    return x - x.mean(dim=-1, keepdim=True) if site.centred else x


def write_rows(
    site: Site,
    activation: Float[Tensor, "batch pos _"],
    changed: Float[Tensor, "tokens width"],
    counted: Places,
) -> None:
    """Write x′ at the counted tokens, in place; other tokens and other heads are unchanged."""
    rows = activation[counted]
    rows[:, _head(site)] = changed.to(rows.dtype)
    activation[counted] = rows


def _head(site: Site) -> slice:
    if site.head is None:
        return slice(None)
    return slice(site.head * site.width, (site.head + 1) * site.width)


@dataclass(frozen=True)
class Batch:
    """A batch of sequences, with the row and position of each counted token.

    Attributes:
        rows: which of the measured sequences.
        ids: their token ids.
        counted: the tokens that are substituted, scored and enter statistics.
        has_target: the tokens at which cross-entropy is scored.
        at: row and position in the batch of each counted token.
        sequence: each counted token's sequence index in the run.
        position: its position in that sequence.
        targets: the token that follows it.
        alike: all sequences have the same tokens before the first counted one, and all tokens
            from there on count: one vector written at every counted token then gives the same
            result in every sequence.
    """

    rows: slice
    ids: Int[Tensor, "batch pos"]
    counted: Bool[Tensor, "batch pos"]
    has_target: Bool[Tensor, "batch pos"]
    at: tuple[Int[Tensor, "tokens"], Int[Tensor, "tokens"]]
    sequence: Int[Tensor, "tokens"]
    position: Int[Tensor, "tokens"]
    targets: Int[Tensor, "tokens"]
    alike: bool

    @property
    def counts(self) -> bool:
        """True if any of its tokens counts."""
        return len(self.targets) > 0

    def by_position(self) -> "Batch":
        """Return a batch of alike sequences with its counted tokens ordered by position."""
        order = torch.arange(len(self.targets), device=self.ids.device)
        order = order.view(len(self.ids), -1).T.flatten()
        row, position = self.at
        return replace(
            self,
            at=(row[order], position[order]),
            sequence=self.sequence[order],
            position=self.position[order],
            targets=self.targets[order],
        )

    def spread(self, values: Float[Tensor, "tokens"]) -> Float[Tensor, "batch pos"]:
        """Put one value for each counted token at its row and position; zero elsewhere."""
        out = torch.zeros(self.counted.shape, dtype=values.dtype, device=values.device)
        out[self.at] = values
        return out


def make_batch(tokens: TokenSet, rows: slice, *, device: torch.device) -> Batch:
    """Return some of the run's sequences on a device.

    Positions of counted tokens are computed before the transfer, so that no GPU sync is needed.
    """
    ids, counted = tokens.ids[rows], tokens.counted[rows]
    alike = _are_alike(ids, counted)
    row, position = counted.nonzero(as_tuple=True)
    targets = ids.roll(-1, dims=1)[row, position]
    parts = (ids, counted, tokens.has_target[rows], row, position, targets)
    moved = [to_device(part, device) for part in parts]
    ids, counted, has_target, row, position, targets = moved
    at = (row, position)
    sequence = row + rows.start + tokens.first
    return Batch(rows, ids, counted, has_target, at, sequence, position, targets, alike)


def to_device(part: Tensor, device: torch.device) -> Tensor:
    """Move a tensor to the model's device without a GPU sync."""
    if device.type != "cuda":
        return part.to(device)
    return part.pin_memory().to(device, non_blocking=True)


def _are_alike(ids: Int[Tensor, "batch pos"], counted: Bool[Tensor, "batch pos"]) -> bool:
    before = int((~counted[0]).sum())
    rest_is_counted = counted[:, before:].all() and not counted[:, :before].any()
    return bool(rest_is_counted and (ids[:, :before] == ids[:1, :before]).all())


def cut(sequences: int, size: int) -> Iterator[slice]:
    """Yield ranges of ``size`` sequences; the last may be shorter."""
    for start in range(0, sequences, size):
        yield slice(start, min(start + size, sequences))


def halves(rows: slice) -> Iterator[slice]:
    """Yield the two halves of a range of two or more sequences."""
    middle = (rows.start + rows.stop) // 2
    yield slice(rows.start, middle)
    yield slice(middle, rows.stop)
