"""Which modules a short pass runs, in which order, and what goes into and comes out of them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saebench.errors import HookError
from saebench.subjects.calls import argument, by_token, result, with_argument, with_result

if TYPE_CHECKING:
    from saebench.subjects.host import Host


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
