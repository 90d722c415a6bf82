"""The transformer blocks of a model, identified by running it."""

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
        extras: the values after the hidden states in the tuple or list that it returns; None where
            it returns the hidden states alone.
        form: the class of that tuple or list.
        feeds_next: whether its output is exactly the next block's input.
    """

    path: str
    extras: tuple[Any, ...] | None
    form: type
    feeds_next: bool

    def handing_on(self, hidden: Tensor) -> Any:
        """Return hidden states in the form of the block's output, as its caller unpacks it.

        Further tensors, such as attention weights, are left out: they would belong to other
        tokens. Where the model computes with them, resuming is not exact, and is not used.
        """
        if self.extras is None:
            return hidden
        return self.form((hidden, *(None if isinstance(x, Tensor) else x for x in self.extras)))


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
    """Return a model's blocks: a list of modules, each run once, in order.

    TransformerLens' adapter names the list; where there is no adapter, or the model does not run
    that list, it is the list in which each block reads the previous block's output.

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
    named = host.adapter_path("blocks")
    if named in stacks:
        return stacks[named]
    chained = [s for s in stacks.values() if all(b.feeds_next for b in s.blocks[:-1])]
    depth = getattr(host.config, "num_hidden_layers", None)
    as_deep = [s for s in chained if len(s.blocks) == depth]
    as_deep = as_deep or [s for s in chained if len(s.blocks) > 1]
    if len(as_deep) != 1:
        candidates = " and ".join(s.path for s in as_deep) or "none"
        raise HostError(
            f"{host.kind}: its transformer blocks cannot be identified: "
            "expected one list of modules, each run once, in order, on the residual stream that "
            f"the previous one returned, found {candidates}"
        )
    return as_deep[0]


def _stack(path: str, calls: list[Call], expected: list[str]) -> Stack | None:
    """Return a list of modules as a stack; None where they do not run as blocks do."""
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
