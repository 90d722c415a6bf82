"""Calls of a module: the hidden states that it is given and that it gives back.

A block may take its hidden states by position or by name, and may return them alone or first in a
tuple. Whatever the form, a substitution leaves it as it is: the block's caller unpacks it.
"""

import inspect
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saebench.errors import HookError

if TYPE_CHECKING:
    from saebench.subjects.host import Host


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


STREAM = 3  # batch, position, width


@dataclass(frozen=True)
class Call:
    """One call of a module during a pass.

    Attributes:
        path: the module's.
        given: the hidden states that it was called with; None where it got none.
        output: what it returned, as it returned it.
        returned: the hidden states among that; None where there are none.
        is_stream: it was given one vector for each token, and gave one back.
    """

    path: str
    given: Float[Tensor, "batch pos width"] | None
    output: Any
    returned: Float[Tensor, "batch pos width"] | None
    is_stream: bool = False


@torch.inference_mode()
def record(
    host: "Host",
    paths: Iterable[str],
    *,
    inputs: Mapping[str, Tensor] | None = None,
    outputs: Mapping[str, Tensor] | None = None,
) -> list[Call]:
    """Run the model on its trial tokens and return the calls of some modules, as they ended.

    Args:
        host: the model.
        paths: which modules.
        inputs: hidden states to give to modules by path, instead of their own.
        outputs: hidden states to have modules return, instead of their own.
    """
    module_at = host.model.get_submodule
    ids = host.trial_ids
    calls: list[Call] = []
    with ExitStack() as hooks:
        for path, value in (inputs or {}).items():
            write = partial(_given, value=value)
            hooks.enter_context(module_at(path).register_forward_pre_hook(write, with_kwargs=True))
        for path, value in (outputs or {}).items():
            hooks.enter_context(
                module_at(path).register_forward_hook(partial(_returned, value=value))
            )
        for path in paths:
            recorder = _Recorder(path, ids, calls)
            module = module_at(path)
            hooks.enter_context(module.register_forward_pre_hook(recorder.before, with_kwargs=True))
            hooks.enter_context(module.register_forward_hook(recorder.after))
        host.final_hidden(ids)
    return calls


def trial_noise(like: Tensor, *, seed: int = 0) -> Tensor:
    """Return random numbers of a tensor's shape and standard deviation, the same each time."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(like.shape, generator=generator, dtype=torch.float32).to(like.device)
    return (noise * like.float().std()).to(like.dtype)


def _given(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], value: Tensor) -> Any:
    return with_argument(module, args, kwargs, value)


def _returned(module: nn.Module, _: Any, output: Any, value: Tensor) -> Any:
    return with_result(module, output, value)


class _Recorder:
    """Keeps copies: what a module is given may be changed in place before the pass ends."""

    def __init__(self, path: str, ids: Int[Tensor, "batch pos"], calls: list[Call]) -> None:
        self._path, self._ids, self._calls = path, ids, calls
        self._given: list[Tensor | None] = []
        self._dimensions: list[int] = []

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            value = argument(module, args, kwargs)
            self._given.append(self._kept(value))
            self._dimensions.append(value.ndim)
        except HookError:
            self._given.append(None)
            self._dimensions.append(0)

    def after(self, module: nn.Module, _: Any, output: Any) -> None:
        before = self._dimensions.pop()
        try:
            value = result(module, output)
            returned, after = self._kept(value), value.ndim
        except HookError:
            returned, after = None, 0
        stream = before == after == STREAM
        self._calls.append(Call(self._path, self._given.pop(), output, returned, stream))

    def _kept(self, value: Tensor) -> Tensor:
        return by_token(value, self._ids, where=self._path).clone()


def calls_once(calls: Sequence[Call]) -> dict[str, Call]:
    """Return the calls of modules that were run just once, by path, as they ended."""
    often = Counter(call.path for call in calls)
    return {call.path: call for call in calls if often[call.path] == 1}
