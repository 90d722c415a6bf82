"""Changes to single modules that last as long as a context: inputs and outputs read or written."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


def hand_on(*args: Any, **kwargs: Any) -> Tensor:
    """Do what a skipped block does: give its input back."""
    return args[0] if args else kwargs["hidden_states"]


@contextmanager
def forward_replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Have a module do something else within; its hooks stay."""
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
def input_read(module: nn.Module, keep: Callable[[Tensor], None]) -> Iterator[None]:
    """Have a module's input kept each time it is run."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        keep(hand_on(*args, **kwargs))

    with module.register_forward_pre_hook(hook, with_kwargs=True):
        yield


@contextmanager
def output_read(module: nn.Module, keep: Callable[[Tensor], None]) -> Iterator[None]:
    """Have a module's output kept each time it is run."""

    def hook(_: nn.Module, __: Any, output: Any) -> None:
        keep(output[0] if isinstance(output, tuple) else output)

    with module.register_forward_hook(hook):
        yield


@contextmanager
def input_written(module: nn.Module, value: Tensor) -> Iterator[None]:
    """Replace a module's input."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (value, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": value}

    with module.register_forward_pre_hook(hook, with_kwargs=True):
        yield


@contextmanager
def output_written(module: nn.Module, value: Tensor) -> Iterator[None]:
    """Replace a module's output."""

    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        return (value, *output[1:]) if isinstance(output, tuple) else value

    with module.register_forward_hook(hook):
        yield


@contextmanager
def computed_input(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace a module's input by what is computed from it."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    with module.register_forward_pre_hook(hook, with_kwargs=True):
        yield


@contextmanager
def computed_output(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace a module's output by what is computed from it."""

    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (change(output[0]), *output[1:])
        return change(output)

    with module.register_forward_hook(hook):
        yield
