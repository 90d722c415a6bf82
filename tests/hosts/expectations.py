"""The place of a hook in the plain model, by its activation's value and by its effect.

saebench gives the activation at a hook; the plain model's recorded inputs and outputs decide
whether it is the one that the hook's name means, and how to write another value there.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import torch
from torch import Tensor

from hosts import reference
from hosts.reference import Change, Place, Plain, close, distance, ratio

Write = Callable[[Tensor], Mapping[Place, Change]]
Activation = Callable[[str], Tensor | None]


class Wrong(Exception):
    """A number differs from the reference's.

    Args:
        check: which check found it.
        text: what differs, and how far.
    """

    def __init__(self, check: str, text: str) -> None:
        super().__init__(f"{check}: {text}")
        self.check = check


@dataclass
class Block:
    """One block of the plain model, and what saebench says of its parts.

    Attributes:
        plain: the reference.
        path: the block's module path.
        layer: its index.
        ask: what gives saebench's activation at a hook of this layer, None where it refuses.
        lens_norm: what gives the module path that TransformerLens calls ``ln1`` or ``ln2``.
    """

    plain: Plain
    path: str
    layer: int
    ask: Activation
    lens_norm: Callable[[str], str | None]

    @cached_property
    def inside(self) -> list[str]:
        """Paths of the modules in the block, the outermost first."""
        values = self.plain.clean.values
        below = self.plain.below(self.path)[1:]
        return [p for p in below if Place(p) in values or Place(p, True) in values]

    def value(self, place: Place) -> Tensor:
        """Return what the clean pass had at a place."""
        if place not in self.plain.clean.values:
            raise Wrong("value", f"{place.path} of the plain model has no value for each token")
        return self.plain.clean.values[place]

    @property
    def pre(self) -> Tensor:
        """The block's input."""
        return self.value(Place(self.path, is_input=True))

    @property
    def post(self) -> Tensor:
        """The block's output."""
        return self.value(Place(self.path))

    @cached_property
    def said(self) -> tuple[Tensor | None, Tensor | None]:
        """What saebench says are the attention's and the MLP's outputs."""
        attn, mlp = self.ask("hook_attn_out"), self.ask("hook_mlp_out")
        return _like(attn, self.pre), _like(mlp, self.pre)

    @property
    def attn(self) -> Tensor | None:
        """The attention's output; None where it is refused or wrong."""
        return self.said[0] if self._has_parts else None

    @property
    def mlp(self) -> Tensor | None:
        """The MLP's output; None where it is refused or wrong."""
        return self.said[1] if self._has_parts else None

    @cached_property
    def _has_parts(self) -> bool:
        """True where what saebench says of the parts adds up."""
        try:
            self.check_parts()
        except Wrong:
            return False
        return True

    @cached_property
    def norms(self) -> dict[str, torch.nn.Module]:
        return reference.norms_of(self.plain.model, self.path)

    @cached_property
    def is_sequential(self) -> bool | None:
        """True where the MLP reads what the attention added; None where that is not known."""
        if self.attn is None:
            return None
        place, _ = self.output_of(self.attn)
        push = torch.randn_like(self.pre) * self.attn.std()
        changed = self.plain.run({place: lambda value: value + push}, record=[self.path])
        moved = changed.values[Place(self.path)] - self.post
        return not close(moved, ratio_push(push, moved), rel=1e-4)

    @cached_property
    def middle_norm(self) -> str | None:
        """The norm whose output is the stream between the parts of a post-LN block."""
        if (
            self.attn is None
            or self.mlp is None
            or close(self.pre + self.attn + self.mlp, self.post)
        ):
            return None
        parts = self.pre, self.post, self.attn, self.mlp
        return next(reference.middle_norms(*parts, self.norms), None)

    def output_of(self, value: Tensor) -> tuple[Place, float]:
        """Return the outermost module whose output a value is, and how many times that output."""
        found = list(self._multiples(value, is_input=False))
        exact = [each for each in found if each[1] == 1]
        if not found:
            raise Wrong("value", f"it is the output of no module in {self.path}")
        return (exact or found)[0]

    def input_of(self, value: Tensor) -> tuple[Place, float]:
        """Return the outermost module whose input a value is."""
        for place, times in self._multiples(value, is_input=True):
            if times == 1:
                return place, times
        raise Wrong("value", f"it is the input of no module in {self.path}")

    def _multiples(self, value: Tensor, *, is_input: bool) -> Iterator[tuple[Place, float]]:
        for path in self.inside:
            other = self.plain.clean.values.get(place := Place(path, is_input))
            times = None if other is None else ratio(value, other)
            if times is not None:
                yield place, times

    def moves(self, changes: Mapping[Place, Change], part: Tensor | None) -> bool | None:
        """True where changes move a part's output; None where the part is not known."""
        if part is None:
            return None
        place, _ = self.output_of(part)
        found = self.plain.run(changes, record=[place.path]).values[place]
        small = reference.EXACT if self.plain.dtype == torch.float64 else 1e-5
        return not close(found, self.value(place), rel=small)

    def part_under(self, hook: str, changes: Mapping[Place, Change]) -> Tensor:
        """Return what the plain model has at a part's output while changes are made."""
        value = self.ask(hook)
        assert value is not None
        place, times = self.output_of(value.double())
        return times * self.plain.run(changes, record=[place.path]).values[place]

    def check_parts(self) -> None:
        """Hold the block's output against the sum of its input and its parts.

        Raises:
            Wrong: where no known form holds.
        """
        known = [part for part in self.said if part is not None]
        rest = self.post - self.pre - sum(known, torch.zeros_like(self.pre))
        scale = self.post.abs().max()
        if rest.abs().max() <= reference.CLOSE * scale:
            return
        if any(self._multiples(rest, is_input=False)):
            return  # another branch, or the part that saebench refuses
        if len(known) == 2 and any(self._scaled(self.pre + known[0] + known[1])):
            return
        if not any(self._post_ln()):
            raise Wrong("identity", f"resid_pre + parts is {rest.abs().max():.2g} of {scale:.2g} "
                        "away from resid_post")  # fmt: skip

    def _scaled(self, stream: Tensor) -> Iterator[bool]:
        """Try the form in which the sum, and a third branch, are multiplied by numbers."""
        for path in self.inside:
            other = self.plain.clean.values.get(Place(path))
            if other is not None and reference.is_scaled_sum(self.post, stream, other):
                yield True

    def _post_ln(self) -> Iterator[bool]:
        """Try the form in which norms follow the sums, with any module as a part not known."""
        outputs = [self.plain.clean.values.get(Place(path)) for path in self.inside]
        others = [o for o in outputs if o is not None and o.shape == self.pre.shape]
        said_attn, said_mlp = self.said
        for attn in others if said_attn is None else [said_attn]:
            for mlp in others if said_mlp is None else [said_mlp]:
                form = reference.additive_form(self.pre, self.post, attn, mlp, self.norms)
                if form is not None:
                    yield True


def ratio_push(push: Tensor, moved: Tensor) -> Tensor:
    """Return the push times what best explains the move."""
    return push * ((push * moved).sum() / push.square().sum())


def _like(value: Tensor | None, stream: Tensor) -> Tensor | None:
    """Return a part's output as float64; None where it is no vector of the stream."""
    return None if value is None or value.shape != stream.shape else value.double()


def expected(block: Block, hook: str, x: Tensor) -> Write:
    """Return how the plain model is given another value at a hook.

    Args:
        block: the hook's block.
        hook: the name after ``blocks.N.``, or ``block`` for the block's own module.
        x: what saebench says is there.

    Raises:
        Wrong: where it is not what the name means.
    """
    calls = block.plain.clean.calls.get(block.path, 0)
    if calls != 1:
        raise Wrong("calls", f"{block.path} is run {calls} times in a pass")
    return FINDERS[hook](block, x.double())


def _resid_pre(block: Block, x: Tensor) -> Write:
    return _there(block, Place(block.path, is_input=True), x)


def _resid_post(block: Block, x: Tensor) -> Write:
    return _there(block, Place(block.path), x)


def _there(block: Block, place: Place, x: Tensor) -> Write:
    _same(x, block.value(place), f"the {'input' if place.is_input else 'output'} of {place.path}")
    return lambda value: {place: lambda _: value}


def _same(x: Tensor, expected: Tensor, what: str) -> None:
    if x.shape != expected.shape:
        raise Wrong("value", f"{what} is {tuple(expected.shape)}, found {tuple(x.shape)}")
    if not close(x, expected):
        gap, size = distance(x, expected), expected.abs().max()
        raise Wrong("value", f"{what} differs by {gap:.2g} of {size:.2g}")


def _attn_out(block: Block, x: Tensor) -> Write:
    return _part_out(block, x)


def _mlp_out(block: Block, x: Tensor) -> Write:
    return _part_out(block, x)


def _part_out(block: Block, x: Tensor) -> Write:
    block.check_parts()
    place, times = block.output_of(x)
    return lambda value: {place: lambda _: value / times}


def _resid_mid(block: Block, x: Tensor) -> Write:
    if (norm := block.middle_norm) is not None:
        return _there(block, Place(norm), x)
    attn = x - block.pre if block.attn is None else block.attn
    _same(x, block.pre + attn, "resid_pre + attn_out")
    if block.is_sequential is False:
        raise Wrong("middle", "the MLP does not read what the attention adds")
    place, times = block.output_of(attn)
    block.check_parts()
    return lambda value: {place: lambda _: (value - block.pre) / times}


def _mlp_in(block: Block, x: Tensor) -> Write:
    _check_mlp_in(block, x)
    for place, norm in islice(_readers(block, x), 12):
        changes = _through(norm, place)(torch.randn_like(x))
        if not block.moves(changes, block.attn) and block.moves(changes, block.mlp) is not False:
            return _through(norm, place)
    raise Wrong("value", f"no module in {block.path} reads it for the MLP alone")


def _check_mlp_in(block: Block, x: Tensor) -> None:
    if block.attn is None:
        return
    if not block.is_sequential:
        _same(x, block.pre, "what a parallel block's MLP reads, its input")
        return
    middle = block.pre + block.attn
    normed = (reference.normed(norm, middle) for norm in block.norms.values())
    if not any(close(x, n) for n in normed):
        _same(x, middle, "what the MLP's branch reads, resid_pre + attn_out")


def _readers(block: Block, x: Tensor) -> Iterator[tuple[Place, torch.nn.Module | None]]:
    """Give the modules that read a value, or a norm of it, the outermost first."""
    seen = [(None, x), *((n, reference.normed(n, x)) for n in block.norms.values())]
    for path in block.inside:
        given = block.plain.clean.values.get(place := Place(path, is_input=True))
        for norm, value in seen:
            if given is not None and close(given, value):
                yield place, norm


def _through(norm: torch.nn.Module | None, place: Place) -> Write:
    if norm is None:
        return lambda value: {place: lambda _: value}
    return lambda value: {place: lambda _: reference.normed(norm, value)}


def _normalized(block: Block, x: Tensor, *, name: str) -> Write:
    lens = block.lens_norm(name)
    for path, weight, bias in _norms_that_give(block, x):
        write = _after_norm(Place(path), weight, bias)
        moved = block.moves(write(torch.randn_like(x)), block.attn)
        if moved is None:  # of a mixer that is no attention
            moved = close(block.value(Place(path, is_input=True)), block.pre)
        if path == lens or (lens is None and moved is (name == "ln1")):
            return write
    raise Wrong("value", f"it is not the input of {name} in {block.path}, normalised")


def _norms_that_give(block: Block, x: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    values = block.plain.clean.values
    for path in block.norms:
        given, output = values.get(Place(path, is_input=True)), values.get(Place(path))
        if given is None or output is None or given.shape != x.shape:
            continue
        weights = reference.affine(x, output)
        if weights and any(close(x, n) for n in reference.normalised(given)):
            yield path, *weights


def _after_norm(place: Place, weight: Tensor, bias: Tensor) -> Write:
    return lambda value: {place: lambda _: weight * value + bias}


def _hook_pre(block: Block, x: Tensor) -> Write:
    place, _ = block.output_of(x)
    modules = dict(block.plain.model.named_modules())
    values = block.plain.clean.values
    acts = [p for p in block.inside if "act" in f"{p.rsplit('.')[-1]}{type(modules[p])}".lower()]
    read = [values[Place(p, True)] for p in acts if Place(p, True) in values]
    if (same := [r for r in read if r.shape == x.shape]) and not any(close(x, r) for r in same):
        raise Wrong("value", "the MLP's activation function reads something else")
    _moves_mlp_alone(block, place)
    return lambda value: {place: lambda _: value}


def _hook_post(block: Block, x: Tensor) -> Write:
    place, _ = block.input_of(x)
    _moves_mlp_alone(block, place)
    return lambda value: {place: lambda _: value}


def _moves_mlp_alone(block: Block, place: Place) -> None:
    changes = {place: lambda value: torch.randn_like(value)}
    if block.moves(changes, block.attn):
        raise Wrong("part", f"{place.path} is not the MLP's: it moves the attention's output")
    if block.moves(changes, block.mlp) is False:
        raise Wrong("part", f"{place.path} is not the MLP's: it does not move its output")


def _hook_z(block: Block, x: Tensor) -> Write:
    place, _ = block.input_of(x)
    if block.attn is not None:
        out, _ = block.output_of(block.attn)
        silent = block.plain.run({place: torch.zeros_like}, record=[out.path]).values[out]
        if not close(silent, silent[:1, :1].expand_as(silent)) and silent.abs().max() > 1e-6:
            raise Wrong("part", f"without {place.path} the attention's output is still made")
    return lambda value: {place: lambda _: value}


def _hook_q(block: Block, x: Tensor) -> Write:
    place, _ = block.output_of(x)
    changes = {place: lambda value: torch.randn_like(value)}
    if block.moves(changes, block.attn) is False:
        raise Wrong("part", f"{place.path} does not move the attention's output")
    return lambda value: {place: lambda _: value}


FINDERS: dict[str, Callable[[Block, Tensor], Write]] = {
    "hook_resid_pre": _resid_pre,
    "hook_resid_post": _resid_post,
    "hook_resid_mid": _resid_mid,
    "hook_attn_out": _attn_out,
    "hook_mlp_out": _mlp_out,
    "hook_mlp_in": _mlp_in,
    "attn.hook_z": _hook_z,
    "mlp.hook_post": _hook_post,
    "ln1.hook_normalized": lambda block, x: _normalized(block, x, name="ln1"),
    "ln2.hook_normalized": lambda block, x: _normalized(block, x, name="ln2"),
    "mlp.hook_pre": _hook_pre,
    "attn.hook_q": _hook_q,
    "block": _resid_post,
}
