"""Calls of a module: the hidden states that it is given and that it gives back.

A block may take its hidden states by position or by name, and may return them alone or first in a
tuple. Whatever the form, a substitution leaves it as it is: the block's caller unpacks it.
"""

import inspect
from functools import lru_cache
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from saebench.errors import HookError


def argument(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return the hidden states that a module is called with.

    Raises:
        HookError: where it is called without a tensor.
    """
    value = args[0] if args else kwargs.get(_keyword(module, kwargs))
    if not isinstance(value, Tensor):
        raise HookError(
            f"{type(module).__name__} is called without hidden states (its first argument is "
            f"{type(value).__name__}), so its input can be neither read nor substituted"
        )
    return value


def with_argument(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], value: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a call's arguments with other hidden states."""
    value = shaped_like(value, argument(module, args, kwargs))
    if args:
        return (value, *args[1:]), kwargs
    return args, {**kwargs, _keyword(module, kwargs): value}


def result(module: nn.Module, output: Any) -> Tensor:
    """Return the hidden states among what a module gave back.

    Raises:
        HookError: where it gave no tensor, alone or first in a tuple.
    """
    value = output[0] if isinstance(output, tuple | list) and output else output
    if not isinstance(value, Tensor):
        raise HookError(
            f"{type(module).__name__} returns {type(output).__name__}, not a tensor or a tuple "
            "that begins with one, so its output can be neither read nor substituted"
        )
    return value


def with_result(module: nn.Module, output: Any, value: Tensor) -> Any:
    """Return what a module gave back with other hidden states, in its own form."""
    value = shaped_like(value, result(module, output))
    return type(output)((value, *output[1:])) if isinstance(output, tuple | list) else value


def shaped_like(value: Tensor, other: Tensor) -> Tensor:
    """Return a tensor in another's shape, where it is the same numbers.

    Some modules see the batch's tokens as rows of a matrix.

    Raises:
        HookError: where the shapes hold different numbers of components.
    """
    if value.shape == other.shape:
        return value
    if value.numel() == other.numel():
        return value.reshape(other.shape)
    raise HookError(f"cannot put {tuple(value.shape)} where {tuple(other.shape)} is")


def by_token(
    value: Tensor, ids: Int[Tensor, "batch pos"], *, where: str
) -> Float[Tensor, "batch pos width"]:
    """Return an activation with one vector for each token.

    Args:
        value: the activation; heads apart and tokens as rows of a matrix are put together.
        ids: the tokens.
        where: the module's path, for the error message.

    Raises:
        HookError: where the activation has no vector for each token.
    """
    batch, positions = ids.shape
    if value.shape[:2] == ids.shape and value.ndim >= 3:
        return value.flatten(2)
    rows = value.flatten(0, 1) if value.ndim == 3 and value.shape[0] == 1 else value
    if rows.ndim == 2 and len(rows) == ids.numel():
        return rows.view(batch, positions, -1)
    raise HookError(
        f"{where} has no activation for each token: for {batch} sequences of {positions} tokens "
        f"it is {tuple(value.shape)}, expected ({batch}, {positions}, width)"
    )


def _keyword(module: nn.Module, kwargs: dict[str, Any]) -> str:
    """Return the name under which a module's hidden states are given."""
    first = _first_parameter(type(module))
    if first in kwargs or "hidden_states" not in kwargs:
        return first
    return "hidden_states"


@lru_cache(maxsize=1024)
def _first_parameter(module_class: type[nn.Module]) -> str:
    names = [name for name in inspect.signature(module_class.forward).parameters if name != "self"]
    return names[0] if names else "hidden_states"
