"""Hook names → sites in a Hugging Face model where activations are read and substituted."""

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
LONG, MANY = 110, 5  # limits of the list of a block's children in errors: letters, children
_SHORT = {"hook_z": "attn.hook_z", "hook_post": "mlp.hook_post"}  # some tools' short names
# Activations of the residual stream, which a model with centred writing weights centres.
_CENTRED = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out",
            "hook_mlp_out", "hook_mlp_in")  # fmt: skip


class Kind(Enum):
    """How a site is read and written."""

    BLOCK_INPUT = auto()
    MODULE_OUTPUT = auto()
    MODULE_INPUT = auto()
    RESID_MID = auto()
    NORMALISED = auto()


@dataclass(frozen=True)
class Site:
    """A place in the model where activations are read and substituted.

    Attributes:
        hook: the name that was resolved to it.
        kind: how it is read and written.
        block: the first block that a substitution changes; the blocks before it need not run
            again. Equal to the number of blocks for the last block's output.
        module: path of the hooked module; None for a block's input.
        head: index of the one attention head, else None.
        width: size of its activation.
        centred: the SAE was trained on the activation minus its mean over components, as in models
            with centred writing weights; the model's norms subtract that mean anyway.
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
    """Return the site that a hook name means in this model.

    Args:
        host: the model.
        hook: a TransformerLens name such as ``blocks.3.hook_resid_pre``, or a module path.
        head: for hook_z, the one head the SAE belongs to.
        centred: the SAE was trained with ``center_writing_weights``.
        module_path: the SAE was trained on the plain Hugging Face model, so that the name is a
            module path and means that module's output.

    Raises:
        HookError: where the model has no such site, or it cannot be substituted.
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
    return replace(site, centred=centred and ignores_mean(host, site))


def ignores_mean(host: "Host", site: Site) -> bool:
    """True where the model does not read the activation's mean over components.

    That is so at the residual stream of models whose norms all subtract it (LayerNorm).
    """
    name = site.hook.rpartition(".")[2]
    return name in _CENTRED and host.is_blind_to_mean


class _BlockHooks:
    """Resolves TransformerLens' hooks in one block."""

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
                "the residual stream after attention was added to it; the MLP reads the output "
                f"of {parts.middle}: name that module"
            )
        if parts.form is None or parts.attention is None:
            raise self._missing(parts.missing or NO_ATTENTION)
        return self._at(Kind.RESID_MID, parts.attention, self.host.stack.width)

    def attn_out(self) -> Site:
        """Return the output that attention adds to the residual stream."""
        return self._output_in_stream(self.host.parts(self.layer).attention, NO_ATTENTION)

    def mlp_out(self) -> Site:
        """Return the output that the MLP adds to the residual stream."""
        return self._output_in_stream(self.host.parts(self.layer).mlp, NO_MLP)

    def _output_in_stream(self, path: str | None, otherwise: str) -> Site:
        if path is None:
            raise self._missing(self.host.parts(self.layer).missing or otherwise)
        return self._at(Kind.MODULE_OUTPUT, path, self.host.stack.width)

    def mlp_entry(self) -> Site:
        """Return the residual stream that the MLP's branch reads, before its norm."""
        parts = self.host.parts(self.layer)
        if parts.mlp_entry is None:
            alone = "no module reads the residual stream for the MLP alone"
            raise self._missing(alone if parts.mlp else parts.missing or NO_MLP)
        return self._at(Kind.MODULE_INPUT, parts.mlp_entry, self.host.stack.width)

    def mlp_in(self) -> Site:
        """Return the MLP's own input, after its norm."""
        named = self.host.adapter_path(f"blocks.{self.layer}.mlp")
        for path in (named, self._mlp_itself(), self._linear("mlp", "in")):
            call = self._calls.get(path or "")
            if call is not None and self._is_read_by_mlp(call.given):
                return self._input(path)
        raise self._missing("no module has the MLP's input alone as its input")

    def _is_read_by_mlp(self, given: Tensor | None) -> bool:
        """True for the stream that the MLP's branch reads, or its normalised form."""
        entry = self._calls.get(self.host.parts(self.layer).mlp_entry or "")
        if given is None or given.shape[-1] != self.host.stack.width:
            return False
        if entry is None:  # attention reads the same norm, and nothing else is known to compare
            return not is_close(given, self._stream, self.host)
        expected = [x for x in (entry.given, entry.returned) if x is not None]
        return any(is_close(given, x, self.host) for x in expected)

    @property
    def _stream(self) -> Tensor:
        given = self._calls[self.block.path].given
        assert given is not None
        return given

    def _mlp_itself(self) -> str | None:
        """Return the path of the block's MLP, where it is one module and not several in a row."""
        branch = self.host.parts(self.layer).mlp_branch
        alone = branch is None or _in_features(self.host.model.get_submodule(branch))
        return None if alone else branch

    def z(self) -> Site:
        """Return the heads' outputs, before the output projection."""
        site = self._input(self._last_linear("attention", "attn.o"))
        heads = self.host.n_heads
        if not heads or site.width % heads:
            raise self._missing(f"{site.module} is {site.width} wide, the model has {heads} heads")
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
            raise self._missing(f"{site.module} computes the gate and the gated values in one")
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
            raise self._missing(
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
            path = self.host.parts(self.layer).mlp_entry
        call = self._calls.get(path or "")
        given = None if call is None else call.given
        reads = stream is not None and given is not None and is_close(given, stream, self.host)
        if path is None or not reads:
            raise self._missing(f"it has no module {name} that normalises the stream")
        try:
            self.host.unit_norm(path)
        except HookError as error:
            raise self._missing(str(error)) from error
        return replace(self._input(path), kind=Kind.NORMALISED)

    def _linear(self, part: str, which: str) -> str | None:
        """Return the linear map with this name in TransformerLens' adapter; None without one."""
        path = self.host.adapter_path(f"blocks.{self.layer}.{part}.{which}")
        is_linear = path is not None and _in_features(self.host.model.get_submodule(path))
        return path if is_linear else None

    def _last_linear(self, part: str, lens_path: str) -> str | None:
        """Return the linear map that attention or the MLP ends in.

        Its output must be that of attention or the MLP: then its input is all that it computes
        from the heads, or from the hidden layer.
        """
        parts = self.host.parts(self.layer)
        of_attention = part == "attention"
        branch = parts.attention_branch if of_attention else parts.mlp_branch
        if branch is None:
            raise self._missing(parts.missing or (NO_ATTENTION if of_attention else NO_MLP))
        output = parts.attention if of_attention else parts.mlp
        named = self.host.adapter_path(f"blocks.{self.layer}.{lens_path}")
        inside = [p for p in self._calls if p.startswith(f"{branch}.") or p in (branch, named)]
        results = [self._calls[p].returned for p in (output, branch) if p in self._calls]
        ends = [p for p in inside if self._ends_in(p, results)]
        return named if named in ends else next(iter(ends), None)

    def _ends_in(self, path: str, results: list[Tensor | None]) -> bool:
        if not _in_features(self.host.model.get_submodule(path)):
            return False
        returned = self._calls[path].returned
        return returned is not None and any(
            r is not None and is_close(returned, r, self.host) for r in results
        )

    @cached_property
    def _calls(self) -> dict[str, Call]:
        return self.host.calls(self.layer)

    def _input(self, path: str | None) -> Site:
        call = self._calls.get(path or "")
        if path is None or call is None or call.given is None:
            raise self._missing("no module has it as input or output for each token")
        return self._at(Kind.MODULE_INPUT, path, call.given.shape[-1])

    def _output(self, path: str | None) -> Site:
        call = self._calls.get(path or "")
        if path is None or call is None or call.returned is None:
            raise self._missing("no module has it as input or output for each token")
        return self._at(Kind.MODULE_OUTPUT, path, call.returned.shape[-1])

    def _at(self, kind: Kind, module: str | None, width: int) -> Site:
        return Site(self.hook, kind, self.layer, module, None, width, False)

    def _missing(self, why: str) -> HookError:
        """Return the error for a hook that the block lacks; it names the block's children."""
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
    # nn.Linear has [out, in], GPT-2's Conv1D [in, out] under the name nx.
    return getattr(module, "in_features", None) or getattr(module, "nx", None)


def _one_head(host: "Host", site: Site, head: int) -> Site:
    if not 0 <= head < host.n_heads:
        raise HookError(
            f"hook {site.hook!r}: hook_head_index={head}, the model has {host.n_heads} heads"
        )
    return replace(site, head=head, width=site.width // host.n_heads)


def _module_site(host: "Host", hook: str) -> Site:
    """Return a module's output or, for a name with .input, its input; a block's are the stream."""
    path, of_input = _module(host, hook), hook.endswith(".input")
    for layer, block in enumerate(host.stack.blocks):
        if path == block.path:
            hooks = _BlockHooks(host, hook, layer)
            return hooks.resid_pre() if of_input else hooks.resid_post()
        if path.startswith(f"{block.path}.") and host.has_module(path):
            kind = Kind.MODULE_INPUT if of_input else Kind.MODULE_OUTPUT
            width = _width(host, layer, path, of_input=of_input)
            return Site(hook, kind, layer, path, None, width, False)
    known = [*host.block_paths, *(n for n, _ in host.model.named_modules() if n)]
    raise HookError(f"hook {hook!r} is no module in a block of {host.name}{nearest(path, known)}")


def _width(host: "Host", layer: int, path: str, *, of_input: bool) -> int:
    side = "input" if of_input else "output"
    call = host.calls(layer).get(path)
    value = None if call is None else call.given if of_input else call.returned
    if value is None:
        why = "it does not run exactly once in a pass" if call is None else "its shape is another"
        raise HookError(f"{path} of {host.name} has no {side} for each token: {why}")
    return value.shape[-1]


def _module(host: "Host", hook: str) -> str:
    """Return the module path of a hook name, without .input or .output at its end."""
    if host.has_module(hook):
        return host.full_path(hook)
    return host.full_path(hook.removesuffix(".input").removesuffix(".output"))
