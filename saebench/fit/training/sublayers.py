"""The half-layers, attention or MLP, on both sides of a place in the model; copies of them."""

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from saebench.errors import HookError
from saebench.subjects.hooks import Kind, Site, find_site
from saebench.subjects.host import Host
from saebench.subjects.parts import Form
from saebench.substitution.passes import Passes
from saebench.substitution.patching import (
    computed_input,
    computed_output,
    computed_unit,
    forward_replaced,
    input_written,
    output_written,
    skipped,
)

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


Change = Callable[[Tensor], Tensor]
CHECKPOINT_FROM_BYTES = 4 << 30
KEPT_PER_TOKEN = 16  # widths of the residual stream that autograd keeps of one block, about


@dataclass(frozen=True)
class Original:
    """What the unchanged model does on some rows.

    Attributes:
        ids: their tokens.
        start: the input of the block that changed passes begin with.
        final: hidden states after the final norm.
    """

    ids: Int[Tensor, "rows context"]
    start: Float[Tensor, "rows context d"]
    final: Float[Tensor, "rows context d"]


class ResumedPasses:
    """Runs the host as it is, then again from the block where a change begins.

    That is the site's block, or that of a trained half-layer before it. Blocks before it are not
    run again, and no gradient goes into them. A block that holds both a trained half-layer and
    the half before that is run whole, without a gradient in the latter.

    Args:
        host: the model; its parameters get no gradient.
        site: where activations are changed.
        halves: trained half-layers, if any.
        checkpointing: keep only the later blocks' inputs for the way back and run them again;
            None decides by their size.
    """

    def __init__(
        self,
        host: Host,
        site: Site,
        *,
        halves: HalfLayers | None = None,
        checkpointing: bool | None = None,
    ) -> None:
        host.model.requires_grad_(False)
        self.host, self.site, self._halves = host, site, halves
        self._checkpointing = checkpointing
        self._passes = Passes(host)
        changed = {site.block} | (halves.blocks if halves is not None else set())
        self.first, self._last_changed = min(changed), max(changed)
        self._skips = self._passes.is_exact(site)
        self._begin = self._site_at(self.first)

    def _site_at(self, block: int) -> Site:
        if block == len(self.host.blocks):
            return find_site(self.host, f"blocks.{block - 1}.hook_resid_post")
        return find_site(self.host, f"blocks.{block}.hook_resid_pre")

    def original(self, ids: Int[Tensor, "rows context"]) -> Original:
        """Run the unchanged model."""
        clean = self._passes.clean(ids, [self._begin])
        assert clean.final is not None
        # Outside inference mode a copy is an ordinary tensor, which autograd may keep.
        return Original(ids, clean.starts[self._begin].clone(), clean.final.clone())

    def final(
        self, original: Original, change: Change | None, *, patched: bool = True
    ) -> Float[Tensor, "rows context d"]:
        """Return the final hidden states with the activation at the site changed.

        Args:
            original: of the same rows.
            change: computes the new activation from the old one; None leaves it.
            patched: run the trained half-layers, where there are any.
        """
        with ExitStack() as patches:
            if self._halves is not None and patched:
                patches.enter_context(self._halves.in_place())
            if self._skips:
                patches.enter_context(skipped(self.host, range(self.first)))
            self._begin_with(original.start, change, patches)
            self._checkpoint_later(original.ids, patches)
            return self.host.final_hidden(original.ids)

    def _begin_with(self, start: Tensor, change: Change | None, patches: ExitStack) -> None:
        """Put the start in, and have the change made on the way or at once."""
        site, blocks = self.site, self.host.blocks
        at_once = site.kind is Kind.BLOCK_INPUT and site.block == self.first
        enter = change(start) if at_once and change is not None else start
        if self.first < len(blocks):
            patches.enter_context(input_written(blocks[self.first], enter))
        else:
            patches.enter_context(output_written(blocks[-1], enter))
        if change is None or at_once:
            return
        if site.kind is Kind.BLOCK_INPUT:
            if site.block < len(blocks):
                patches.enter_context(computed_input(blocks[site.block], change))
            else:
                patches.enter_context(computed_output(blocks[-1], change))
            return
        assert site.module is not None
        module = self.host.model.get_submodule(site.module)
        if site.kind is Kind.MODULE_INPUT:
            patches.enter_context(computed_input(module, change))
        elif site.kind is Kind.MODULE_OUTPUT:
            patches.enter_context(computed_output(module, change))
        elif site.kind is Kind.NORMALISED:
            norm = self.host.unit_norm(site.module)
            patches.enter_context(computed_unit(module, norm, change))
        else:  # the residual stream between attention and MLP: of this block the start is known
            patches.enter_context(computed_output(module, lambda out: change(start + out) - start))

    def _checkpoint_later(self, ids: Tensor, patches: ExitStack) -> None:
        """Checkpoint the blocks after all that is changed: on the way back that is gone."""
        later = self.host.blocks[self._last_changed + 1 :]
        wanted = self._checkpointing
        if wanted is None:
            kept = 4 * ids.numel() * self.host.d_model * KEPT_PER_TOKEN * len(later)
            wanted = kept > CHECKPOINT_FROM_BYTES
        if wanted and torch.is_grad_enabled():
            for block in later:
                patches.enter_context(forward_replaced(block, _checkpointed(self.host, block)))


def _checkpointed(host: Host, block: nn.Module) -> Callable[..., Tensor]:
    forward = block.forward

    def run(*args: Any, **kwargs: Any) -> Tensor:
        # On the way back it is run on its own, where the host's final_hidden is long left.
        with host.gelus_in_one():
            return forward(*args, **kwargs)

    return partial(checkpoint, run, use_reentrant=False)
