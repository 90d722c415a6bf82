"""Reference: full float64 passes of a plain model with one activation changed, by torch hooks.

It imports nothing of saebench, whose passes are compared with it.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

CLOSE = 1e-3  # of the largest value; another place's values differ by much more
EXACT = 1e-8  # the same, where both sides are float64


@dataclass(frozen=True, order=True)
class Place:
    """A module's input, or its output; of several tensors it is the first.

    Attributes:
        path: of the module.
        is_input: whether it is the input.
    """

    path: str
    is_input: bool = False


Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Pass:
    """What one pass leaves behind.

    Attributes:
        logits: of every position.
        values: what was at each place that was recorded, after a change; the last call's.
        calls: how often each of those modules was run.
    """

    logits: Tensor
    values: dict[Place, Tensor]
    calls: dict[str, int]


class Plain:
    """A copy of a model in float64, run in full without a cache.

    Args:
        model: a transformers language model; it is left as it is.
        ids: the token ids that every pass runs, of shape [batch, pos].

    Attributes:
        dtype: float64; float32 for a model whose code takes nothing else.
        clean: the pass without a change, recorded at every module.
    """

    def __init__(self, model: Any, ids: Tensor) -> None:
        self.ids = ids
        self.dtype = torch.float64
        self.model = copy.deepcopy(model).to(self.dtype).eval()
        # The experts' fused kernels take no float64.
        self.model.set_experts_implementation("eager")
        if not self._is_the_same_model(model):
            self.dtype = torch.float32
            self.model = copy.deepcopy(model).eval()
        self.clean = self.run(record=[path for path, _ in self.model.named_modules() if path])

    @torch.no_grad()
    def run(
        self,
        changes: Mapping[Place, Change] | None = None,
        *,
        record: list[str] | tuple[str, ...] = (),
        ids: Tensor | None = None,
    ) -> Pass:
        """Run the model with places changed, and keep both sides of the modules to record."""
        ids = self.ids if ids is None else ids
        values: dict[Place, Tensor] = {}
        calls = dict.fromkeys(record, 0)
        with ExitStack() as hooks:
            for place, change in (changes or {}).items():
                hooks.enter_context(_changed(self.model, place, change, ids))
            for path in record:
                hooks.enter_context(_recorded(self.model, path, values, calls, ids))
            found = self.model(input_ids=ids, use_cache=False)
        return Pass(_logits(found), values, calls)

    def below(self, path: str) -> list[str]:
        """Return the paths of a module and of those inside it, the outermost first."""
        inside = [p for p, _ in self.model.get_submodule(path).named_modules() if p]
        return [path, *sorted((f"{path}.{p}" for p in inside), key=lambda p: p.count("."))]

    @torch.no_grad()
    def _is_the_same_model(self, model: Any) -> bool:
        try:
            ours = _logits(self.model(input_ids=self.ids, use_cache=False))
        except (RuntimeError, ValueError):  # it mixes float64 with a float32 of its own
            return False
        return close(_logits(model(input_ids=self.ids, use_cache=False)), ours, rel=1e-2)


def _logits(found: Any) -> Tensor:
    return (found["logits"] if hasattr(found, "keys") else found[0]).double()


def close(found: Tensor, expected: Tensor, *, rel: float = CLOSE) -> bool:
    """True where two tensors of one shape differ by a small part of the largest value."""
    if found.shape != expected.shape:
        return False
    return distance(found, expected) <= rel * expected.double().abs().max().item() + 1e-12


def distance(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference; infinite where one of them is no number."""
    gap = (found.double() - expected.double()).abs().max()
    return gap.item() if torch.isfinite(gap) else float("inf")


@contextmanager
def _changed(model: nn.Module, place: Place, change: Change, ids: Tensor) -> Iterator[None]:
    module = model.get_submodule(place.path)

    def put(value: Tensor) -> Tensor:
        there = _by_position(value, ids)
        assert there is not None, f"{place} has no value for each token"
        return _as_before(change(there).to(value.dtype), value, ids)

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = _name_of_first(args, kwargs)
        if name is None:
            return (put(args[0]), *args[1:]), kwargs
        return args, {**kwargs, name: put(kwargs[name])}

    def after(_: nn.Module, __: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return put(output)
        if isinstance(output, tuple | list):
            return type(output)([put(output[0]), *output[1:]])
        first = next(iter(output))
        output[first] = put(output[first])
        return output

    if place.is_input:
        handle = module.register_forward_pre_hook(before, with_kwargs=True)
    else:
        handle = module.register_forward_hook(after)
    with handle:
        yield


@contextmanager
def _recorded(
    model: nn.Module, path: str, values: dict[Place, Tensor], calls: dict[str, int], ids: Tensor
) -> Iterator[None]:
    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        calls[path] += 1
        name = _name_of_first(args, kwargs)
        given = args[0] if name is None and args else kwargs.get(name or "")
        for place, value in ((Place(path, is_input=True), given), (Place(path), _first(output))):
            there = _by_position(value, ids)
            if there is not None:
                values[place] = there.double().clone()

    module = model.get_submodule(path)
    with module.register_forward_hook(keep, with_kwargs=True):
        yield


def _name_of_first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Return the name of a module's input; None where it is given without one."""
    if args:
        return None
    known = ("hidden_states", "x", "input")
    names = [n for n in known if n in kwargs] or [n for n, v in kwargs.items() if _is_real(v)]
    return names[0] if names else None


def _is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _first(output: Any) -> Any:
    if isinstance(output, tuple | list):
        return output[0] if output else None
    return next(iter(output.values()), None) if isinstance(output, dict) else output


def _by_position(value: Any, ids: Tensor) -> Tensor | None:
    """Return a value as [batch, pos, width]; None where it is not one for each token."""
    if not _is_real(value):
        return None
    batch, length = ids.shape
    if value.dim() == 2 and len(value) == batch * length:
        return value.unflatten(0, (batch, length))
    if value.dim() < 3:
        return None
    if value.shape[:2] == (length, batch) and batch != length:
        value = value.transpose(0, 1)
    return value.flatten(2) if value.shape[:2] == (batch, length) else None


def _as_before(changed: Tensor, value: Tensor, ids: Tensor) -> Tensor:
    """Give a changed value the shape that the model had there."""
    if value.dim() > 2 and value.shape[:2] == tuple(reversed(ids.shape)):
        changed = changed.transpose(0, 1)
    return changed.reshape(value.shape)


def additive_form(
    pre: Tensor, post: Tensor, attn: Tensor, mlp: Tensor, norms: Mapping[str, nn.Module]
) -> str | None:
    """Name the way in which a block adds its two parts to the stream; None where none holds.

    Args:
        pre: the block's input.
        post: its output.
        attn: what is said to be its attention's output.
        mlp: what is said to be its MLP's output.
        norms: the block's norms by their paths, as modules of ``pre``'s dtype.
    """
    if close(pre + attn + mlp, post):
        return "sum"
    return "post-LN" if any(middle_norms(pre, post, attn, mlp, norms)) else None


def middle_norms(
    pre: Tensor, post: Tensor, attn: Tensor, mlp: Tensor, norms: Mapping[str, nn.Module]
) -> Iterator[str]:
    """Give the norm between a post-LN block's parts: ``post = ln2(ln1(pre + attn) + mlp)``."""
    for (first, ln1), (second, ln2) in product(norms.items(), norms.items()):
        if first != second and close(normed(ln2, normed(ln1, pre + attn) + mlp), post):
            yield first


def norms_of(model: nn.Module, block: str) -> dict[str, nn.Module]:
    """Return the norms in a block: modules that give back an input of their own width, scaled."""
    found = model.get_submodule(block).named_modules()
    return {f"{block}.{path}": m for path, m in found if "norm" in type(m).__name__.lower()}


@torch.no_grad()
def normed(norm: nn.Module, value: Tensor) -> Tensor:
    weight = next(norm.parameters(), None)
    if weight is not None and (weight.dim() != 1 or len(weight) != value.shape[-1]):
        return torch.full_like(value, torch.nan)
    dtype = value.dtype if weight is None else weight.dtype
    try:
        return norm(value.to(dtype)).double()
    except (RuntimeError, TypeError, ValueError):  # a norm of something else
        return torch.full_like(value, torch.nan)


def normalised(value: Tensor) -> tuple[Tensor, Tensor]:
    """Return a value divided by its root mean square, with its mean subtracted and without."""
    centred = value - value.mean(-1, keepdim=True)
    return centred / _rms(centred), value / _rms(value)


def _rms(value: Tensor) -> Tensor:
    return value.square().mean(-1, keepdim=True).clamp_min(1e-20).sqrt()


def affine(given: Tensor, output: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return weight and bias of ``output = weight · given + bias``, each component's own.

    None where no such weights give the output.
    """
    x, y = given.flatten(0, 1), output.flatten(0, 1)
    mean_x, mean_y = x.mean(0), y.mean(0)
    weight = ((x - mean_x) * (y - mean_y)).sum(0) / (x - mean_x).square().sum(0)
    bias = mean_y - weight * mean_x
    if bias.abs().max() < 1e-4 * weight.abs().max():
        bias = torch.zeros_like(bias)  # rounding, which norms further on may blow up
    return (weight, bias) if close(weight * given + bias, output) else None


def ratio(value: Tensor, other: Tensor) -> float | None:
    """Return the number that ``other`` times gives ``value``; None where there is none."""
    if value.shape != other.shape or not other.any():
        return None
    times = ((value * other).sum() / other.square().sum()).item()
    if not times or not close(times * other, value):
        return None
    return 1.0 if abs(times - 1) < CLOSE else times


def is_scaled_sum(total: Tensor, stream: Tensor, other: Tensor) -> bool:
    """True where a total is a stream times a number, plus another value times a number.

    A block may end in a scalar of its own, and add a third branch (Gemma 4).
    """
    if total.shape != other.shape:
        return False
    columns = torch.stack([stream.flatten(), other.flatten()], dim=1)
    times = torch.linalg.lstsq(columns, total.flatten()[:, None]).solution[:, 0]
    return abs(times[0].item()) > 0.1 and close((columns @ times).view_as(total), total)
