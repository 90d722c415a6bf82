"""The half-layers (attention or MLP) next to an SAE: trainable copies, and passes with them."""

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
from saebench.fit.training import SIDES
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

_HOOK = re.compile(r"blocks\.(\d+)\.(?:hook_)(resid_pre|resid_mid|resid_post|attn_out|mlp_out)")
# (blocks further, sublayer) before and after each hook.
_NEXT_TO = {
    "resid_pre": ((-1, "mlp"), (0, "attn")),
    "resid_mid": ((0, "attn"), (0, "mlp")),
    "resid_post": ((0, "mlp"), (1, "attn")),
    "attn_out": ((0, "attn"), (0, "mlp")),
    "mlp_out": ((0, "mlp"), (1, "attn")),
}


def sublayer_paths(host: Host, hook: str, *, sides: tuple[str, ...] = SIDES) -> dict[str, str]:
    """Return the module paths of the half-layers next to a hook, by side.

    Args:
        host: the model.
        hook: a place in the residual stream, or the output of attention or MLP.
        sides: ``before``, ``after`` or both.

    Raises:
        HookError: where a side has none, or the model does not run attention and MLP in turn.
    """
    match = _HOOK.fullmatch(hook)
    if match is None:
        raise HookError(
            f"hook {hook!r} is not between two half-layers: intrusive training needs "
            f"blocks.LAYER.hook_{{{','.join(_NEXT_TO)}}}; frozen training takes any hook"
        )
    if host.parts(min(int(match[1]), len(host.blocks) - 1)).form is not Form.SEQUENTIAL:
        raise HookError(
            f"hook {hook!r}: the blocks of {host.name} run attention and MLP in parallel, so there "
            "are no half-layers next to it; use --objective frozen"
        )
    paths = {}
    for side, (further, sublayer) in zip(SIDES, _NEXT_TO[match[2]], strict=True):
        block = int(match[1]) + further
        if side in sides:
            _refuse_none(host, hook, side, block)
            paths[side] = _path(host, hook, block, sublayer)
    return paths


def _path(host: Host, hook: str, block: int, sublayer: str) -> str:
    """Return the path of a block's attention, or of its MLP."""
    parts = host.parts(block)
    branch = parts.attention_branch if sublayer == "attn" else parts.mlp_branch
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


class Sublayers(nn.Module):
    """Trainable copies of half-layers, which run in place of the model's own.

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
        """Have the model run the copies inside the ``with`` block."""
        with ExitStack() as patches:
            for side, path in self.paths.items():
                module = self._host.model.get_submodule(path)
                patches.enter_context(forward_replaced(module, self.copies[side].forward))
            yield

    @property
    def blocks(self) -> set[int]:
        """The blocks that they belong to."""
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
        """Return the norm of the parameters' change, as a share of their norm before."""
        change = before = 0.0
        for side, path in self.paths.items():
            trained = dict(self.copies[side].named_parameters())
            for name, parameter in self._host.model.get_submodule(path).named_parameters():
                change += float((trained[name] - parameter).double().square().sum())
                before += float(parameter.double().square().sum())
        return (change / before) ** 0.5 if before else 0.0


Change = Callable[[Tensor], Tensor]
CHECKPOINT_FROM_BYTES = 4 << 30
SAVED_WIDTHS = 16  # autograd saves about so many widths a token of one block


@dataclass(frozen=True)
class Original:
    """A pass of the unchanged model.

    Attributes:
        ids: the token rows.
        start: the input of the block from which changed passes are resumed.
        final: hidden states after the final norm.
    """

    ids: Int[Tensor, "rows context"]
    start: Float[Tensor, "rows context d"]
    final: Float[Tensor, "rows context d"]


class ResumedPasses:
    """Runs the model as it is, then again from the first block with a change in it.

    That is the site's block, or that of a trained half-layer before it. Blocks before it are not
    run again, and get no gradient. Where only the second half-layer of a block is trained, the
    first is run again without a gradient.

    Args:
        host: the model; its parameters get no gradient.
        site: where activations are changed.
        sublayers: trained half-layers, if any.
        checkpointing: recompute the later blocks when backpropagating, instead of saving their
            activations; None decides by their size.
    """

    def __init__(
        self,
        host: Host,
        site: Site,
        *,
        sublayers: Sublayers | None = None,
        checkpointing: bool | None = None,
    ) -> None:
        host.model.requires_grad_(False)
        self.host, self.site, self._sublayers = host, site, sublayers
        self._checkpointing = checkpointing
        self._passes = Passes(host)
        changed = {site.block} | (sublayers.blocks if sublayers is not None else set())
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
            original: the unchanged pass of the same rows.
            change: computes the new activation from the old one; None leaves it.
            patched: run the trained half-layers, where there are any.
        """
        with ExitStack() as patches:
            if self._sublayers is not None and patched:
                patches.enter_context(self._sublayers.in_place())
            if self._skips:
                patches.enter_context(skipped(self.host, range(self.first)))
            self._begin_with(original.start, change, patches)
            self._checkpoint_later(original.ids, patches)
            return self.host.final_hidden(original.ids)

    def _begin_with(self, start: Tensor, change: Change | None, patches: ExitStack) -> None:
        """Write the first block's input, and change the activation there or further on."""
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
        else:  # the residual stream between attention and MLP, whose block's input is ``start``
            patches.enter_context(computed_output(module, lambda out: change(start + out) - start))

    def _checkpoint_later(self, ids: Tensor, patches: ExitStack) -> None:
        """Checkpoint the blocks after the last change; patches are undone before the backward."""
        later = self.host.blocks[self._last_changed + 1 :]
        wanted = self._checkpointing
        if wanted is None:
            saved = 4 * ids.numel() * self.host.d_model * SAVED_WIDTHS * len(later)
            wanted = saved > CHECKPOINT_FROM_BYTES
        if wanted and torch.is_grad_enabled():
            for block in later:
                patches.enter_context(forward_replaced(block, _checkpointed(self.host, block)))


def _checkpointed(host: Host, block: nn.Module) -> Callable[..., Tensor]:
    forward = block.forward

    def run(*args: Any, **kwargs: Any) -> Tensor:
        # When backpropagating it is run alone, outside of the host's final_hidden.
        with host.gelus_in_one():
            return forward(*args, **kwargs)

    return partial(checkpoint, run, use_reentrant=False)
