"""Context managers that read or replace the inputs and outputs of single modules."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from saebench.subjects.calls import argument, result, shaped_like, with_argument, with_result
from saebench.subjects.host import Host
from saebench.subjects.norms import UnitNorm
from saebench.subjects.stack import Block


@contextmanager
def forward_replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Replace a module's ``forward`` inside the context; its hooks stay."""
    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


@contextmanager
def skipped(host: Host, blocks: range) -> Iterator[None]:
    """Make blocks return their input, in the form in which they return their output."""
    with ExitStack() as patches:
        for layer in blocks:
            module, block = host.blocks[layer], host.stack.blocks[layer]
            patches.enter_context(forward_replaced(module, partial(_return_input, module, block)))
        yield


def _return_input(module: nn.Module, block: Block, *args: Any, **kwargs: Any) -> Any:
    return block.handing_on(argument(module, args, kwargs))


@contextmanager
def input_read(module: nn.Module, keep: Callable[[Tensor], None]) -> Iterator[None]:
    """Call ``keep`` with a module's input each time it is run."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        keep(argument(module, args, kwargs))

    with module.register_forward_pre_hook(hook, with_kwargs=True):
        yield


@contextmanager
def output_read(module: nn.Module, keep: Callable[[Tensor], None]) -> Iterator[None]:
    """Call ``keep`` with a module's output each time it is run."""

    def hook(_: nn.Module, __: Any, output: Any) -> None:
        keep(result(module, output))

    with module.register_forward_hook(hook):
        yield


@contextmanager
def input_written(module: nn.Module, value: Tensor) -> Iterator[None]:
    """Replace a module's input, each time by a copy: some modules work in place."""
    with computed_input(module, lambda _: value.clone()):
        yield


@contextmanager
def output_written(module: nn.Module, value: Tensor) -> Iterator[None]:
    """Replace a module's output, each time by a copy; its other return values stay."""
    with computed_output(module, lambda _: value.clone()):
        yield


@contextmanager
def computed_input(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace a module's input by a function of it."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return with_argument(module, args, kwargs, change(argument(module, args, kwargs)))

    with module.register_forward_pre_hook(hook, with_kwargs=True):
        yield


@contextmanager
def computed_output(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace a module's output by a function of it."""

    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        return with_result(module, output, change(result(module, output)))

    with module.register_forward_hook(hook):
        yield


@contextmanager
def computed_unit(
    module: nn.Module, norm: UnitNorm, change: Callable[[Tensor], Tensor]
) -> Iterator[None]:
    """Replace a norm's normalised activation, before its weights, by a function of it."""
    inputs: list[Tensor] = []

    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        x = inputs.pop()
        value = shaped_like(change(norm.normalised(x)), x)
        return with_result(module, output, norm.rewritten(result(module, output), x, value))

    with input_read(module, inputs.append), module.register_forward_hook(hook):
        yield
