"""Hook names → places in a Hugging Face model."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor, nn

from saebench.errors import HookError, nearest
from saebench.subjects.calls import Call
from saebench.subjects.parts import Form, is_close

if TYPE_CHECKING:
    from saebench.subjects.host import Host

_BLOCK_HOOK = re.compile(r"blocks\.(\d+)\.((?:attn|mlp|ln1|ln2)\.)?(hook_\w+)")
NO_ATTENTION = "it has no attention that adds to the residual stream"
NO_MLP = "it has no MLP that adds to the residual stream"
LONG, MANY = 110, 5  # letters of a block's parts, and parts, in error messages
_SHORT = {"hook_z": "attn.hook_z", "hook_post": "mlp.hook_post"}  # as some tools write them
# What a model with centred writing weights writes into the residual stream, or reads there.
_CENTRED = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out",
            "hook_mlp_out", "hook_mlp_in")  # fmt: skip


class Kind(Enum):
    """How a place is read and written."""

    BLOCK_INPUT = auto()
    MODULE_OUTPUT = auto()
    MODULE_INPUT = auto()
    RESID_MID = auto()
    NORMALISED = auto()


@dataclass(frozen=True)
class Site:
    """A place in the model where activations are read and substituted.

    Attributes:
        hook: the name it was found by.
        kind: how to read and write there.
        block: the first block that a substitution changes; the blocks before it need not run
            again. Equal to the number of blocks for the last block's output.
        module: path of the hooked module; None for a block's input.
        head: index of the one attention head, else None.
        width: size of the activation there.
        centred: the SAE saw the activation minus its mean over components, as in models whose
            writing weights are centred; norms that subtract it make the model blind to that mean.
    """

    hook: str
    kind: Kind
    block: int
    module: str | None
    head: int | None
    width: int
    centred: bool


def find_site(
    host: "Host",
    hook: str,
    *,
    head: int | None = None,
    centred: bool = False,
    module_path: bool = False,
) -> Site:
    """Return the place that a hook name means in this model.

    Args:
        host: the model.
        hook: a TransformerLens name such as ``blocks.3.hook_resid_pre``, or a module path.
        head: for hook_z, the one head the SAE belongs to.
        centred: the SAE was trained with ``center_writing_weights``.
        module_path: the SAE was trained on the plain Hugging Face model, so that the name is a
            module path and means that module's output.

    Raises:
        HookError: where the model has no such place, or it cannot be substituted.
    """
    key = (hook, head, centred, module_path)
    if key not in host.sites:
        host.sites[key] = _find_site(host, hook, head, centred, module_path)
    return host.sites[key]


def _find_site(host: "Host", hook: str, head: int | None, centred: bool, module_path: bool) -> Site:
    match = _BLOCK_HOOK.fullmatch(hook)
    if match is None:
        if module_path or host.has_module(_module(host, hook)):
            return _module_site(host, hook)
        raise HookError(
            f"hook {hook!r} is not known: expected blocks.LAYER.HOOK with HOOK one of "
            f"{', '.join(FINDERS)}, or a module path of {type(host.model).__name__}, which means "
            "its output, or with .input its input"
        )
    layer, part, name = int(match[1]), match[2] or "", match[3]
    full = _SHORT.get(f"{part}{name}", f"{part}{name}")
    if full not in FINDERS:
        raise HookError(f"hook {hook!r} cannot be substituted here{nearest(full, FINDERS)}")
    if layer >= len(host.blocks):
        raise HookError(
            f"hook {hook!r} is not in the model: {host.name} has {len(host.blocks)} blocks, "
            f"0 to {len(host.blocks) - 1}"
        )
    if head is not None and name != "hook_z":
        raise HookError(f"hook {hook!r} with hook_head_index={head}: only hook_z has heads")
    site = FINDERS[full](_BlockHooks(host, hook, layer))
    if head is not None:
        return _one_head(host, site, head)
    return replace(site, centred=centred and name in _CENTRED and host.is_blind_to_mean)


class _BlockHooks:
    """Finds TransformerLens' hooks in one block."""

    def __init__(self, host: "Host", hook: str, layer: int) -> None:
        self.host, self.hook, self.layer = host, hook, layer
        self.block = host.stack.blocks[layer]

    def resid_pre(self) -> Site:
        """Return the residual stream before the block."""
        return self._at(Kind.BLOCK_INPUT, None, self.host.stack.width)

    def resid_post(self) -> Site:
        """Return the residual stream after the block."""
        width = self.host.stack.width
        if self.block.feeds_next:
            return replace(self._at(Kind.BLOCK_INPUT, None, width), block=self.layer + 1)
        return self._at(Kind.MODULE_OUTPUT, self.block.path, width)

    def resid_mid(self) -> Site:
        """Return the residual stream between attention and MLP."""
        parts = self.host.parts(self.layer)
        if parts.form is Form.PARALLEL:
            raise HookError(
                f"hook {self.hook!r} is not in the model: the blocks of {self.host.name} run "
                "attention and MLP in parallel, so there is no residual stream between them"
            )
        if parts.middle is not None:
            raise HookError(
                f"hook {self.hook!r} is not in the model: the blocks of {self.host.kind} normalise "
                "the residual stream after attention was added to it; what the MLP reads is the "
                f"output of {parts.middle}: name that"
            )
        if parts.form is None or parts.attention is None:
            raise self._none(parts.missing or NO_ATTENTION)
        return self._at(Kind.RESID_MID, parts.attention, self.host.stack.width)

    def attn_out(self) -> Site:
        """Return what attention adds to the residual stream."""
        return self._adds(self.host.parts(self.layer).attention, NO_ATTENTION)

    def mlp_out(self) -> Site:
        """Return what the MLP adds to the residual stream."""
        return self._adds(self.host.parts(self.layer).mlp, NO_MLP)

    def _adds(self, path: str | None, otherwise: str) -> Site:
        if path is None:
            raise self._none(self.host.parts(self.layer).missing or otherwise)
        return self._at(Kind.MODULE_OUTPUT, path, self.host.stack.width)

    def mlp_entry(self) -> Site:
        """Return what the MLP's branch reads of the residual stream, before its norm."""
        parts = self.host.parts(self.layer)
        if parts.mlp_entry is None:
            alone = "no module reads the residual stream for the MLP alone"
            raise self._none(alone if parts.mlp else parts.missing or NO_MLP)
        return self._at(Kind.MODULE_INPUT, parts.mlp_entry, self.host.stack.width)

    def mlp_in(self) -> Site:
        """Return what the MLP itself is given, after its norm."""
        told = self.host.adapter_path(f"blocks.{self.layer}.mlp")
        for path in (told, self._mlp_itself(), self._linear("mlp", "in")):
            call = self._calls.get(path or "")
            if call is not None and self._is_read_by_mlp(call.given):
                return self._input(path)
        raise self._none("no module is given just what the MLP reads")

    def _is_read_by_mlp(self, given: Tensor | None) -> bool:
        """True for what the MLP's branch begins with, or what its norm makes of that."""
        entry = self._calls.get(self.host.parts(self.layer).mlp_entry or "")
        if given is None or given.shape[-1] != self.host.stack.width:
            return False
        if entry is None:  # attention reads the same norm; nothing more can be held against it
            return not is_close(given, self._stream, self.host)
        made = [x for x in (entry.given, entry.returned) if x is not None]
        return any(is_close(given, x, self.host) for x in made)

    @property
    def _stream(self) -> Tensor:
        given = self._calls[self.block.path].given
        assert given is not None
        return given

    def _mlp_itself(self) -> str | None:
        """Return the block's MLP, where it is one module and not its parts one after another."""
        branch = self.host.parts(self.layer).mlp_branch
        alone = branch is None or _in_features(self.host.model.get_submodule(branch))
        return None if alone else branch

    def z(self) -> Site:
        """Return what the heads give, before the output projection."""
        site = self._input(self._last_linear("attention", "attn.o"))
        heads = self.host.n_heads
        if not heads or site.width % heads:
            raise self._none(f"{site.module} is {site.width} wide, the model has {heads} heads")
        return site

    def mlp_post(self) -> Site:
        """Return the MLP's hidden layer after its activation function."""
        return self._input(self._last_linear("mlp", "mlp.out"))

    def mlp_pre(self) -> Site:
        """Return the MLP's hidden layer before its activation function."""
        post = self.mlp_post()
        path = self._linear("mlp", "gate") or self._linear("mlp", "in")
        site = self._output(path)
        if site.width != post.width:
            raise self._none(f"{site.module} gives the gate and what it lets through in one")
        return site

    def q(self) -> Site:
        """Return the queries, before norms and rotation."""
        return self._projection("q", self.host.n_heads)

    def k(self) -> Site:
        """Return the keys, before norms and rotation."""
        return self._projection("k", self._key_heads)

    def v(self) -> Site:
        """Return the values."""
        return self._projection("v", self._key_heads)

    @property
    def _key_heads(self) -> int:
        return getattr(self.host.config, "num_key_value_heads", None) or self.host.n_heads

    def _projection(self, which: str, heads: int) -> Site:
        site = self._output(self._linear("attn", which))
        z = self.z()
        if site.width * self.host.n_heads != z.width * heads:
            raise self._none(
                f"{site.module} is {site.width} wide, {heads} heads of {z.width} // "
                f"{self.host.n_heads} components were expected"
            )
        return site

    def ln1(self) -> Site:
        """Return the residual stream normalised for attention, before the norm's weights."""
        return self._normalised("ln1", self._stream)

    def ln2(self) -> Site:
        """Return the residual stream normalised for the MLP, before the norm's weights."""
        entry = self._calls.get(self.host.parts(self.layer).mlp_entry or "")
        return self._normalised("ln2", None if entry is None else entry.given)

    def _normalised(self, name: str, stream: Tensor | None) -> Site:
        """Return the norm that reads the residual stream for attention, or for the MLP."""
        path = self.host.adapter_path(f"blocks.{self.layer}.{name}")
        if path is None and name == "ln2":
            path = self.host.parts(self.layer).mlp_entry  # what the MLP's branch begins with
        call = self._calls.get(path or "")
        given = None if call is None else call.given
        reads = stream is not None and given is not None and is_close(given, stream, self.host)
        if path is None or not reads:
            raise self._none(f"no module of it is known as {name}, a norm of the stream")
        try:
            self.host.unit_norm(path)
        except HookError as error:
            raise self._none(str(error)) from error
        return replace(self._input(path), kind=Kind.NORMALISED)

    def _linear(self, part: str, which: str) -> str | None:
        """Return the linear map that TransformerLens' adapter calls so, where there is one."""
        path = self.host.adapter_path(f"blocks.{self.layer}.{part}.{which}")
        is_one = path is not None and _in_features(self.host.model.get_submodule(path))
        return path if is_one else None

    def _last_linear(self, part: str, lens_path: str) -> str | None:
        """Return the linear map that a part of the block ends in.

        It must give what the part gives: then its input is all that the part makes of its heads,
        or of its hidden layer.
        """
        parts = self.host.parts(self.layer)
        of_attention = part == "attention"
        branch = parts.attention_branch if of_attention else parts.mlp_branch
        if branch is None:
            raise self._none(parts.missing or (NO_ATTENTION if of_attention else NO_MLP))
        adds = parts.attention if of_attention else parts.mlp
        told = self.host.adapter_path(f"blocks.{self.layer}.{lens_path}")
        inside = [p for p in self._calls if p.startswith(f"{branch}.") or p in (branch, told)]
        results = [self._calls[p].returned for p in (adds, branch) if p in self._calls]
        ends = [p for p in inside if self._ends_in(p, results)]
        return told if told in ends else next(iter(ends), None)

    def _ends_in(self, path: str, results: list[Tensor | None]) -> bool:
        if not _in_features(self.host.model.get_submodule(path)):
            return False
        given = self._calls[path].returned
        return given is not None and any(
            r is not None and is_close(given, r, self.host) for r in results
        )

    @cached_property
    def _calls(self) -> dict[str, Call]:
        return self.host.calls(self.layer)

    def _input(self, path: str | None) -> Site:
        call = self._calls.get(path or "")
        if path is None or call is None or call.given is None:
            raise self._none("no module shows it for each token")
        return self._at(Kind.MODULE_INPUT, path, call.given.shape[-1])

    def _output(self, path: str | None) -> Site:
        call = self._calls.get(path or "")
        if path is None or call is None or call.returned is None:
            raise self._none("no module shows it for each token")
        return self._at(Kind.MODULE_OUTPUT, path, call.returned.shape[-1])

    def _at(self, kind: Kind, module: str | None, width: int) -> Site:
        return Site(self.hook, kind, self.layer, module, None, width, False)

    def _none(self, why: str) -> HookError:
        """Return the error of a hook that the block does not have; it names the block's parts."""
        path = self.block.path
        children = dict(self.host.model.get_submodule(path).named_children())
        named = [f"{name} ({type(child).__name__})" for name, child in children.items()]
        if len(", ".join(named)) > LONG:
            named = list(children)[:MANY] + ["…"] * (len(children) > MANY)
        return HookError(
            f"hook {self.hook!r} is not in block {self.layer} of {self.host.kind}: {why}; the "
            f"block has {', '.join(named)}; give a module path, such as "
            f"{path}.{next(iter(children), '')}"
        )


FINDERS: dict[str, Callable[[_BlockHooks], Site]] = {
    "hook_resid_pre": _BlockHooks.resid_pre,
    "hook_resid_post": _BlockHooks.resid_post,
    "hook_resid_mid": _BlockHooks.resid_mid,
    "hook_attn_out": _BlockHooks.attn_out,
    "hook_mlp_out": _BlockHooks.mlp_out,
    "hook_mlp_in": _BlockHooks.mlp_entry,
    "attn.hook_z": _BlockHooks.z,
    "attn.hook_q": _BlockHooks.q,
    "attn.hook_k": _BlockHooks.k,
    "attn.hook_v": _BlockHooks.v,
    "mlp.hook_in": _BlockHooks.mlp_in,
    "mlp.hook_pre": _BlockHooks.mlp_pre,
    "mlp.hook_post": _BlockHooks.mlp_post,
    "ln1.hook_normalized": _BlockHooks.ln1,
    "ln2.hook_normalized": _BlockHooks.ln2,
}


def _in_features(module: nn.Module) -> int | None:
    """Return the width of a linear map's input; None for other modules."""
    # nn.Linear keeps [out, in], GPT-2's Conv1D [in, out] under the name nx.
    return getattr(module, "in_features", None) or getattr(module, "nx", None)


def _one_head(host: "Host", site: Site, head: int) -> Site:
    if not 0 <= head < host.n_heads:
        raise HookError(
            f"hook {site.hook!r}: hook_head_index={head}, the model has {host.n_heads} heads"
        )
    return replace(site, head=head, width=site.width // host.n_heads)


def _module_site(host: "Host", hook: str) -> Site:
    """Find a module's output, or its input where the name ends so; a block's are the stream."""
    path, of_input = _module(host, hook), hook.endswith(".input")
    for layer, block in enumerate(host.stack.blocks):
        if path == block.path:
            found = _BlockHooks(host, hook, layer)
            return found.resid_pre() if of_input else found.resid_post()
        if path.startswith(f"{block.path}.") and host.has_module(path):
            kind = Kind.MODULE_INPUT if of_input else Kind.MODULE_OUTPUT
            width = _shown_width(host, layer, path, of_input=of_input)
            return Site(hook, kind, layer, path, None, width, False)
    known = [*host.block_paths, *(n for n, _ in host.model.named_modules() if n)]
    raise HookError(f"hook {hook!r} is no module in a block of {host.name}{nearest(path, known)}")


def _shown_width(host: "Host", layer: int, path: str, *, of_input: bool) -> int:
    side = "input" if of_input else "output"
    call = host.calls(layer).get(path)
    value = None if call is None else call.given if of_input else call.returned
    if value is None:
        often = "it is not run once in a pass" if call is None else "its shape is another"
        raise HookError(f"{path} of {host.name} has no {side} for each token: {often}")
    return value.shape[-1]


def _module(host: "Host", hook: str) -> str:
    """Return the module's path that a hook name means, without the side that it may end in."""
    if host.has_module(hook):
        return host.full_path(hook)
    return host.full_path(hook.removesuffix(".input").removesuffix(".output"))
