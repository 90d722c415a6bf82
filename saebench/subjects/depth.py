"""A hook's depth in the model by its name, without loading the model."""

import re

_BLOCK_HOOK = re.compile(r"blocks\.(\d+)\.(?:attn\.|mlp\.)?((?:ln[12]\.)?hook_\w+)")
_MODULE = re.compile(r"\w+(?:\.\w+)*?\.(\d+)(?:\.(.+))?")
_ORDER = (
    "hook_resid_pre", "ln1.hook_normalized", "hook_q", "hook_k", "hook_v", "hook_z",
    "hook_attn_out", "hook_resid_mid", "hook_mlp_in", "ln2.hook_normalized", "hook_in", "hook_pre",
    "hook_post", "hook_mlp_out",
)  # fmt: skip
_WITHIN = {name: place for place, name in enumerate(_ORDER)}
_ATTENTION = ("attn", "self_attn", "attention", "self_attention")


def depth(hook: str) -> tuple[int, int] | None:
    """Return a hook's position in the order of the model's computation; None for unknown hooks.

    Within a block: the stream before it and its norm, heads, attention's output, the stream after
    that, the MLP's input, its hidden layer, its output. The stream after a block is the stream
    before the next one.

    Args:
        hook: a TransformerLens name, or a module path, which means the module's output.

    Example:
        >>> depth("blocks.1.hook_resid_post") == depth("blocks.2.hook_resid_pre") == (2, 0)
        True
        >>> depth("model.layers.1.mlp")
        (1, 13)
    """
    named = _BLOCK_HOOK.fullmatch(hook)
    if named:
        layer, name = int(named[1]), named[2]
        if name == "hook_resid_post":
            return layer + 1, 0
        return (layer, _WITHIN[name]) if name in _WITHIN else None
    module = _MODULE.fullmatch(hook)
    if module is None:
        return None
    layer, inside = int(module[1]), module[2]
    if inside is None:
        return layer + 1, 0
    part = "hook_attn_out" if inside in _ATTENTION else "hook_mlp_out" if inside == "mlp" else ""
    return (layer, _WITHIN[part]) if part else None


def same_place(one: str, other: str) -> bool:
    """True where two hooks are the same activation, or have the same depth.

    Example:
        >>> same_place("blocks.1.hook_resid_post", "blocks.2.hook_resid_pre")
        True
    """
    return one == other or (depth(one) is not None and depth(one) == depth(other))
