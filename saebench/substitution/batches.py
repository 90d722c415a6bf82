"""How much to do at once: as much as is fastest, and as fits in free memory."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saebench.data.tokens import TokenSet
from saebench.subjects.hooks import Site
from saebench.subjects.host import Host

# Tokens of one pass. On a CPU more gains nothing, and activations leave the cache; a GPU wants
# many, to keep all of it busy.
TOKENS_A_PASS = {"cpu": 2048, "cuda": 32_768}
SHARE_OF_FREE = 0.25
HIDDEN_BYTES = 256 << 20  # of what a batch's interventions leave behind, on a CPU


def tokens_a_pass(host: Host) -> int:
    """Return how many tokens to run through the model at once.

    A pass needs about the width of the MLP, three times over, for each token.
    """
    most = TOKENS_A_PASS.get(host.device.type, TOKENS_A_PASS["cuda"])
    told = getattr(host.config, "intermediate_size", None) or 4 * host.d_model
    inner = max(told) if isinstance(told, list | tuple) else told  # some have one for each block
    return max(1, min(most, int(_to_use(host.device) / (3 * 4 * inner))))


def sequences_at_once(host: Host, *, context: int, kept: int) -> int:
    """Return how many sequences to take together.

    Args:
        host: the model.
        context: tokens of a sequence.
        kept: vectors of the residual stream's width that are kept of every token.
    """
    by_memory = int(_to_use(host.device) / (kept * context * host.d_model * 4))
    return max(1, min(by_memory, tokens_a_pass(host) // context))


def _to_use(device: torch.device) -> float:
    """Return the bytes that a batch may take: a share of what is free."""
    if device.type == "cuda":
        return SHARE_OF_FREE * torch.cuda.mem_get_info(device)[0]
    import psutil

    return min(HIDDEN_BYTES, SHARE_OF_FREE * psutil.virtual_memory().available)


class Doubts:
    """Whether anything in a batch needs a closer look.

    To look at a value on a GPU is to wait for it. A batch's doubts are therefore gathered there,
    and looked at once, before anything of the batch is used; where there are any, it is computed
    again, and everything is looked at as it comes. On a CPU it always is.

    Args:
        later: gather them; else whoever has one looks at once.

    Example:
        >>> doubts = Doubts(later=True)
        >>> doubts.put_off(torch.tensor([False, True]))
        True
        >>> doubts.any()
        True
        >>> Doubts(later=False).put_off(torch.tensor([True]))
        False
    """

    def __init__(self, *, later: bool) -> None:
        self._later = later
        self._gathered: list[Tensor] = []

    def put_off(self, doubtful: Bool[Tensor, "*any"]) -> bool:
        """Keep the doubt for later; False where the caller must look now."""
        if self._later:
            self._gathered.append(doubtful.any())
        return self._later

    def any(self) -> bool:
        """True where something that was put off is doubtful: waits for all of it."""
        return bool(self._gathered) and bool(torch.stack(self._gathered).any())


AT_ONCE = Doubts(later=False)


Places = Bool[Tensor, "batch pos"] | tuple[Int[Tensor, "tokens"], Int[Tensor, "tokens"]]


def read_rows(
    site: Site, activation: Float[Tensor, "batch pos _"], counted: Places
) -> Float[Tensor, "tokens width"]:
    """Return the counted tokens' activations as the SAE sees them, in fp32.

    Args:
        site: which of their components.
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
    """Put x′ at the counted tokens, in place; other tokens, and other heads, keep theirs."""
    rows = activation[counted]
    rows[:, _head(site)] = changed.to(rows.dtype)
    activation[counted] = rows


def _head(site: Site) -> slice:
    if site.head is None:
        return slice(None)
    return slice(site.head * site.width, (site.head + 1) * site.width)


@dataclass(frozen=True)
class Batch:
    """Some sequences, and where their counted tokens are.

    Attributes:
        rows: which sequences of those that are measured.
        ids: their token ids.
        counted: the tokens that are substituted, scored and enter statistics.
        has_target: the tokens at which cross-entropy is scored.
        at: row and position, here, of each counted token.
        sequence: each counted token's sequence index in the run.
        position: its position there.
        targets: the token after it.
        alike: the sequences differ in nothing but their counted tokens, which are all those
            from one position on: what is put at each of them gives the same in every sequence.
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
        """True where any of its tokens counts."""
        return len(self.targets) > 0

    def by_position(self) -> "Batch":
        """Return sequences that are alike with the counted tokens in the order of positions."""
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
        """Put the rows' values back at their places."""
        out = torch.zeros(self.counted.shape, dtype=values.dtype, device=values.device)
        out[self.at] = values
        return out


def make_batch(tokens: TokenSet, rows: slice, *, device: torch.device) -> Batch:
    """Return some sequences of the run, on a device.

    Places are found before anything is moved, so that a GPU is never waited for.
    """
    ids, counted = tokens.ids[rows], tokens.counted[rows]
    alike = _are_alike(ids, counted)
    row, position = counted.nonzero(as_tuple=True)
    targets = ids.roll(-1, dims=1)[row, position]
    parts = (ids, counted, tokens.has_target[rows], row, position, targets)
    there = [to_device(part, device) for part in parts]
    ids, counted, has_target, row, position, targets = there
    at = (row, position)
    sequence = row + rows.start + tokens.first
    return Batch(rows, ids, counted, has_target, at, sequence, position, targets, alike)


def to_device(part: Tensor, device: torch.device) -> Tensor:
    """Put a part of a batch where the model is, without waiting for what a GPU has to do."""
    if device.type != "cuda":
        return part.to(device)
    return part.pin_memory().to(device, non_blocking=True)


def _are_alike(ids: Int[Tensor, "batch pos"], counted: Bool[Tensor, "batch pos"]) -> bool:
    before = int((~counted[0]).sum())
    rest_counts = counted[:, before:].all() and not counted[:, :before].any()
    return bool(rest_counts and (ids[:, :before] == ids[:1, :before]).all())


def cut(sequences: int, size: int) -> Iterator[slice]:
    """Cut sequences into ranges of a size; the last may be shorter."""
    for start in range(0, sequences, size):
        yield slice(start, min(start + size, sequences))


def halves(rows: slice) -> Iterator[slice]:
    """Give the two halves of a range of two sequences or more."""
    middle = (rows.start + rows.stop) // 2
    yield slice(rows.start, middle)
    yield slice(middle, rows.stop)
