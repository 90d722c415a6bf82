"""The half-layers, attention or MLP, on both sides of a place in the model; copies of them."""

import copy
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from saebench.errors import HookError
from saebench.subjects.host import Host
from saebench.subjects.parts import Form
from saebench.substitution.patching import forward_replaced

SIDES = ("before", "after")
_HOOK = re.compile(r"blocks\.(\d+)\.(?:hook_)(resid_pre|resid_mid|resid_post|attn_out|mlp_out)")
# (blocks further, half) before and after each place.
_BESIDE = {
    "resid_pre": ((-1, "mlp"), (0, "attn")),
    "resid_mid": ((0, "attn"), (0, "mlp")),
    "resid_post": ((0, "mlp"), (1, "attn")),
    "attn_out": ((0, "attn"), (0, "mlp")),
    "mlp_out": ((0, "mlp"), (1, "attn")),
}


def half_layers(host: Host, hook: str, *, sides: tuple[str, ...] = SIDES) -> dict[str, str]:
    """Return the module paths of the half-layers beside a hook, by side.

    Args:
        host: the model.
        hook: a place in or beside the residual stream.
        sides: ``before``, ``after`` or both.

    Raises:
        HookError: where a side has none, or halves cannot be told apart here.
    """
    match = _HOOK.fullmatch(hook)
    if match is None:
        raise HookError(
            f"hook {hook!r} is not between two half-layers: intrusive training needs "
            f"blocks.LAYER.hook_{{{','.join(_BESIDE)}}}; frozen training takes any hook"
        )
    if host.parts(min(int(match[1]), len(host.blocks) - 1)).form is not Form.SEQUENTIAL:
        raise HookError(
            f"hook {hook!r}: the blocks of {host.name} run attention and MLP in parallel, so there "
            "are no half-layers beside it; use --objective frozen"
        )
    found = {}
    for side, (further, half) in zip(SIDES, _BESIDE[match[2]], strict=True):
        block = int(match[1]) + further
        if side in sides:
            _refuse_none(host, hook, side, block)
            found[side] = _half(host, hook, block, half)
    return found


def _half(host: Host, hook: str, block: int, half: str) -> str:
    """Return the child of a block that is its attention, or its MLP."""
    parts = host.parts(block)
    branch = parts.attention_branch if half == "attn" else parts.mlp_branch
    if branch is None:
        raise HookError(f"hook {hook!r}: block {block} of {host.name}: {parts.missing}")
    return branch


def _refuse_none(host: Host, hook: str, side: str, block: int) -> None:
    if not 0 <= block < len(host.blocks):
        other = SIDES[1 - SIDES.index(side)]
        raise HookError(
            f"hook {hook!r} of {host.name} has no half-layer {side} it; train the one {other} it "
            f"alone: --half-layers {other}"
        )


class HalfLayers(nn.Module):
    """Trainable copies of half-layers, to be run in the place of the model's own.

    Args:
        host: the model; left as it is.
        paths: their module paths, by side.
    """

    def __init__(self, host: Host, paths: dict[str, str]) -> None:
        super().__init__()
        self._host, self.paths = host, paths
        self.copies = nn.ModuleDict(
            {side: copy.deepcopy(host.model.get_submodule(p)) for side, p in paths.items()}
        ).requires_grad_(True)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Have the model run the copies within."""
        with ExitStack() as patches:
            for side, path in self.paths.items():
                module = self._host.model.get_submodule(path)
                patches.enter_context(forward_replaced(module, self.copies[side].forward))
            yield

    @property
    def blocks(self) -> set[int]:
        """The blocks that hold them."""
        return {
            number
            for number, block in enumerate(self._host.block_paths)
            if any(path.startswith(f"{block}.") for path in self.paths.values())
        }

    def tensors(self) -> dict[str, Tensor]:
        """Return the copies' parameters under their paths in the model."""
        return {
            f"{self.paths[side]}.{name}": parameter.detach().cpu().clone()
            for side, module in self.copies.items()
            for name, parameter in module.named_parameters()
        }

    @torch.no_grad()
    def moved(self) -> float:
        """Return how far the parameters moved, as a share of their norm before."""
        moved = before = 0.0
        for side, path in self.paths.items():
            own = self._host.model.get_submodule(path).named_parameters()
            theirs = dict(self.copies[side].named_parameters())
            for name, parameter in own:
                moved += float((theirs[name] - parameter).double().square().sum())
                before += float(parameter.double().square().sum())
        return (moved / before) ** 0.5 if before else 0.0
