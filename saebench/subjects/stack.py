"""The transformer blocks of a model, found by what the model runs and held against it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from saebench.errors import HostError
from saebench.subjects.calls import Call, record

if TYPE_CHECKING:
    from saebench.subjects.host import Host


@dataclass(frozen=True)
class Block:
    """A transformer block.

    Attributes:
        path: its module path.
        beside: what it returns after its hidden states, in a tuple or list; None where it returns
            them alone.
        form: the class of that tuple or list.
        feeds_next: what it returns is just what the next block is given.
    """

    path: str
    beside: tuple[Any, ...] | None
    form: type
    feeds_next: bool

    def handing_on(self, hidden: Tensor) -> Any:
        """Return what the block's caller unpacks, with these hidden states in it.

        Tensors beside them, such as attention weights, are left out: they would be of other
        tokens. Where the model computes with them, resuming is not exact, and not done.
        """
        if self.beside is None:
            return hidden
        return self.form((hidden, *(None if isinstance(x, Tensor) else x for x in self.beside)))


@dataclass(frozen=True)
class Stack:
    """The blocks of a model, in order.

    Attributes:
        path: the module path of their list.
        blocks: the blocks.
        width: of the residual stream.
    """

    path: str
    blocks: tuple[Block, ...]
    width: int


def find_stack(host: "Host") -> Stack:
    """Return a model's blocks: a list of modules that is run once each, in order.

    TransformerLens' adapter says which list it is; where there is no adapter, or the model does
    not run that list, it is one of which each block reads what the one before gave.

    Raises:
        HostError: where the model has no such list.
    """
    lists = {
        path: [f"{path}.{i}" for i in range(len(module))]
        for path, module in host.model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module)
    }
    calls: dict[str, list[Call]] = {path: [] for path in lists}
    for call in record(host, [path for paths in lists.values() for path in paths]):
        calls[call.path.rpartition(".")[0]].append(call)
    stacks = {
        path: stack
        for path, paths in lists.items()
        if (stack := _stack(path, calls[path], paths)) is not None
    }
    told = host.adapter_path("blocks")
    if told in stacks:
        return stacks[told]
    chained = [s for s in stacks.values() if all(b.feeds_next for b in s.blocks[:-1])]
    depth = getattr(host.config, "num_hidden_layers", None)
    as_deep = [s for s in chained if len(s.blocks) == depth]
    as_deep = as_deep or [s for s in chained if len(s.blocks) > 1]
    if len(as_deep) != 1:
        found = " and ".join(s.path for s in as_deep) or "none"
        raise HostError(
            f"{host.kind}: its transformer blocks cannot be told: "
            "expected one list of modules that is run once each, in order, each on the residual "
            f"stream that the one before it gave, found {found}"
        )
    return as_deep[0]


def _stack(path: str, calls: list[Call], expected: list[str]) -> Stack | None:
    """Return a list of modules as blocks; None where they are not run as blocks are."""
    if [call.path for call in calls] != expected:
        return None
    streams = [(call.given, call.returned) for call in calls if call.is_stream]
    if len(streams) != len(calls):
        return None
    widths = {x.shape[-1] for pair in streams for x in pair if x is not None}
    if len(widths) != 1:
        return None
    following = [call.given for call in calls[1:]] + [None]
    return Stack(path, tuple(map(_block, calls, following)), widths.pop())


def _block(call: Call, following: Tensor | None) -> Block:
    output = call.output
    several = isinstance(output, tuple | list)
    assert call.returned is not None
    feeds = following is None or torch.equal(call.returned, following)
    return Block(
        call.path, tuple(output[1:]) if several else None, type(output) if several else tuple, feeds
    )
