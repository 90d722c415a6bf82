"""Hidden states in the arguments and results of module calls: reading, replacing, recording.

A block may take its hidden states by position or by name, and may return them alone or first in a
tuple. A substitution keeps the form, which the block's caller unpacks.
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
        HookError: for a call without a tensor.
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
    """Return the hidden states in a module's output.

    Raises:
        HookError: for an output that is no tensor and no tuple that begins with one.
    """
    value = output[0] if isinstance(output, tuple | list) and output else output
    if not isinstance(value, Tensor):
        raise HookError(
            f"{type(module).__name__} returns {type(output).__name__}, not a tensor or a tuple "
            "that begins with one, so its output can be neither read nor substituted"
        )
    return value


def with_result(module: nn.Module, output: Any, value: Tensor) -> Any:
    """Return a module's output with other hidden states, in the same form."""
    value = shaped_like(value, result(module, output))
    return type(output)((value, *output[1:])) if isinstance(output, tuple | list) else value


def shaped_like(value: Tensor, other: Tensor) -> Tensor:
    """Return a tensor reshaped like another one.

    Some modules take the batch's tokens as rows of a matrix.

    Raises:
        HookError: for shapes with different numbers of components.
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
        value: the activation; heads are flattened, and tokens as rows of a matrix batched.
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
    """Return the name of the argument that holds a module's hidden states."""
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
        path: the module's path.
        given: the hidden states that it was called with; None without any.
        output: its output, unchanged.
        returned: the hidden states in the output; None without any.
        is_stream: whether it took and returned hidden states of shape [batch, pos, width].
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
    """Run the model on its trial tokens and return the calls of some modules, as they return.

    Args:
        host: the model.
        paths: of the modules to record.
        inputs: replacements of modules' inputs, by path.
        outputs: replacements of modules' outputs, by path.
    """
    module_at = host.model.get_submodule
    ids = host.trial_ids
    calls: list[Call] = []
    with ExitStack() as hooks:
        for path, value in (inputs or {}).items():
            write = partial(_replace_input, value=value)
            hooks.enter_context(module_at(path).register_forward_pre_hook(write, with_kwargs=True))
        for path, value in (outputs or {}).items():
            hooks.enter_context(
                module_at(path).register_forward_hook(partial(_replace_output, value=value))
            )
        for path in paths:
            recorder = _Recorder(path, ids, calls)
            module = module_at(path)
            hooks.enter_context(module.register_forward_pre_hook(recorder.before, with_kwargs=True))
            hooks.enter_context(module.register_forward_hook(recorder.after))
        host.final_hidden(ids)
    return calls


def trial_noise(like: Tensor, *, seed: int = 0) -> Tensor:
    """Return random numbers of a tensor's shape and standard deviation, reproducibly."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(like.shape, generator=generator, dtype=torch.float32).to(like.device)
    return (noise * like.float().std()).to(like.dtype)


def _replace_input(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], value: Tensor
) -> Any:
    return with_argument(module, args, kwargs, value)


def _replace_output(module: nn.Module, _: Any, output: Any, value: Tensor) -> Any:
    return with_result(module, output, value)


class _Recorder:
    """Hooks that copy a module's inputs and outputs, which later code may change in place."""

    def __init__(self, path: str, ids: Int[Tensor, "batch pos"], calls: list[Call]) -> None:
        self._path, self._ids, self._calls = path, ids, calls
        self._given: list[Tensor | None] = []
        self._dimensions: list[int] = []

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            value = argument(module, args, kwargs)
            self._given.append(self._copy(value))
            self._dimensions.append(value.ndim)
        except HookError:
            self._given.append(None)
            self._dimensions.append(0)

    def after(self, module: nn.Module, _: Any, output: Any) -> None:
        before = self._dimensions.pop()
        try:
            value = result(module, output)
            returned, after = self._copy(value), value.ndim
        except HookError:
            returned, after = None, 0
        stream = before == after == STREAM
        self._calls.append(Call(self._path, self._given.pop(), output, returned, stream))

    def _copy(self, value: Tensor) -> Tensor:
        return by_token(value, self._ids, where=self._path).clone()


def calls_once(calls: Sequence[Call]) -> dict[str, Call]:
    """Return the calls of modules that ran exactly once, by path, in the order of their return."""
    count = Counter(call.path for call in calls)
    return {call.path: call for call in calls if count[call.path] == 1}
