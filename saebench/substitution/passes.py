"""The clean pass, and passes resumed from the hooked block."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saebench.subjects.hooks import Kind, Site
from saebench.subjects.host import Host
from saebench.substitution.patching import (
    forward_replaced,
    hand_on,
    input_read,
    input_written,
    output_read,
    output_written,
)


@dataclass(frozen=True)
class CleanPass:
    """What one pass leaves behind for every intervention that is made on it.

    Attributes:
        ids: the token ids that were run.
        final: hidden states after the final norm; None where the pass stopped early.
        activations: the activation at each site.
        starts: the input of each site's block.
        written: what was substituted in it, and where; nothing in a clean pass.
    """

    ids: Int[Tensor, "batch pos"]
    final: Float[Tensor, "batch pos d"] | None
    activations: dict[Site, Float[Tensor, "batch pos width"]]
    starts: dict[Site, Float[Tensor, "batch pos d"]]
    written: dict[Site, Float[Tensor, "batch pos width"]] = field(default_factory=dict)

    @property
    def first(self) -> "CleanPass":
        """The pass of the first sequence alone."""
        return CleanPass(
            self.ids[:1],
            None if self.final is None else self.final[:1],
            {site: x[:1] for site, x in self.activations.items()},
            {site: x[:1] for site, x in self.starts.items()},
            {site: x[:1] for site, x in self.written.items()},
        )


@dataclass(frozen=True)
class _Tried:
    """What was found out by trying about a site of a model."""

    exact: bool
    all: bool


_TRIED: WeakKeyDictionary[Host, dict[Site, _Tried]] = WeakKeyDictionary()


class Passes:
    """Runs a host model clean, or with one site substituted.

    The blocks before a site do the same in every intervention: their ``forward`` is replaced by
    one that hands the kept block input on, so that only the blocks from the site on are run.
    Whether the resumed pass equals the full pass is tried once for each site; where it does
    not, the blocks before are run too.
    """

    def __init__(self, host: Host) -> None:
        self.host = host

    @torch.inference_mode()
    def clean(
        self, ids: Int[Tensor, "batch pos"], sites: Sequence[Site], *, stop_early: bool = False
    ) -> CleanPass:
        """Run the model unchanged and keep what the sites need.

        Args:
            ids: token ids.
            sites: where to read.
            stop_early: leave out the blocks after the last site, and the final hidden states.
        """
        kept: dict[tuple[Site, str], Tensor] = {}
        with ExitStack() as patches:
            for site in sites:
                self._capture(site, kept, patches)
            if stop_early:
                for block in self.host.blocks[max(_blocks_needed(site) for site in sites) :]:
                    patches.enter_context(forward_replaced(block, hand_on))
            final = self.host.final_hidden(ids)
        starts = {site: kept[site, "start"] for site in sites}
        activations = {site: _activation(site, kept) for site in sites}
        return CleanPass(ids, None if stop_early else final, activations, starts)

    @torch.inference_mode()
    def resume(
        self, clean: CleanPass, site: Site, changed: Float[Tensor, "stack batch pos width"]
    ) -> Float[Tensor, "stack batch pos d"]:
        """Return the final hidden states with the site's activation replaced.

        Args:
            clean: the clean pass of the same tokens.
            site: the site.
            changed: replacements for the whole activation, stacked; left as they are.
        """
        found = self.resume_keeping(clean, site, changed, ())
        assert found.final is not None
        return found.final.unflatten(0, changed.shape[:2])

    @torch.inference_mode()
    def resume_keeping(
        self,
        clean: CleanPass,
        site: Site,
        changed: Float[Tensor, "stack batch pos width"],
        sites: Sequence[Site],
    ) -> CleanPass:
        """Resume as :meth:`resume` does, and keep what later sites need to be substituted too.

        Args:
            clean: a pass of the same tokens: the clean one, or one that this function returned
                for an earlier site, whose substitution then stays.
            site: the site.
            changed: replacements for the whole activation, stacked; left as they are.
            sites: where to read, all of them after the site.

        Returns:
            A pass whose batch is the stack's versions one after another.
        """
        return self._resumed(clean, site, changed.flatten(0, 1), sites, skip=self.is_exact(site))

    def _resumed(
        self,
        clean: CleanPass,
        site: Site,
        flat: Float[Tensor, "stack*batch pos width"],
        sites: Sequence[Site],
        *,
        skip: bool,
    ) -> CleanPass:
        stack = len(flat) // len(clean.ids)
        start = clean.starts[site].repeat(stack, 1, 1)
        kept: dict[tuple[Site, str], Tensor] = {}
        with ExitStack() as patches:
            for earlier, value in clean.written.items():
                # In an earlier block it is part of the start already.
                if earlier.block == site.block:
                    self._substitute_module(earlier, start, value.repeat(stack, 1, 1), patches)
            self._substitute(site, start, flat, patches, skip=skip)
            for later in sites:
                self._capture(later, kept, patches)
            final = self.host.final_hidden(clean.ids.repeat(stack, 1))
        return CleanPass(
            clean.ids.repeat(stack, 1),
            final,
            {later: _activation(later, kept) for later in sites},
            {later: kept[later, "start"] for later in sites},
            clean.written | {site: flat},
        )

    @contextmanager
    def substituted(
        self, clean: CleanPass, site: Site, changed: Float[Tensor, "batch pos width"]
    ) -> Iterator[None]:
        """Have the site's activation replaced in every pass within; all blocks are run.

        Args:
            clean: the clean pass of the tokens that are run within.
            site: the site.
            changed: the replacement for the whole activation; left as it is.
        """
        with ExitStack() as patches:
            self._substitute(site, clean.starts[site], changed, patches, skip=False)
            yield

    def is_exact(self, site: Site) -> bool:
        """True where resuming at this site gives exactly what the full pass gives."""
        return self._tried(site).exact

    def is_all(self, site: Site) -> bool:
        """True where the activation at this site is all that the later ones are made from.

        It is not where something goes around the site, nor where the model looks at its tokens
        again further on.
        """
        return self._tried(site).all

    def _tried(self, site: Site) -> _Tried:
        known = _TRIED.setdefault(self.host, {})
        if site not in known:
            known[site] = self._try(site)
        return known[site]

    @torch.inference_mode()
    def _try(self, site: Site) -> _Tried:
        """Run two sequences that are given the same activation, with and without the start."""
        width = min(8, self.host.context or 8)
        ids = torch.arange(2 * width, device=self.host.device) % self.host.config.vocab_size
        clean = self.clean(ids.view(2, width), [site], stop_early=True)
        same = clean.activations[site][:1].repeat(2, 1, 1)
        full = self._resumed(clean, site, same, (), skip=False).final
        resumed = self._resumed(clean, site, same, (), skip=True).final
        assert full is not None
        assert resumed is not None
        # Rows of one matrix product may differ in their last bits.
        alike = torch.allclose(resumed[0], resumed[1], rtol=1e-4, atol=1e-5)
        return _Tried(exact=torch.equal(full, resumed), all=alike)

    def _capture(
        self, site: Site, kept: dict[tuple[Site, str], Tensor], patches: ExitStack
    ) -> None:
        blocks = self.host.blocks

        def keep(what: str) -> Callable[[Tensor], None]:
            return lambda value: kept.__setitem__((site, what), value)

        if site.block < len(blocks):
            patches.enter_context(input_read(blocks[site.block], keep("start")))
        else:
            patches.enter_context(output_read(blocks[-1], keep("start")))
        if site.module is not None:
            module = self.host.model.get_submodule(site.module)
            read = input_read if site.kind is Kind.MODULE_INPUT else output_read
            patches.enter_context(read(module, keep("module")))

    def _substitute(
        self, site: Site, start: Tensor, changed: Tensor, patches: ExitStack, *, skip: bool
    ) -> None:
        blocks = self.host.blocks
        enter = changed if site.kind is Kind.BLOCK_INPUT else start
        if skip:
            for block in blocks[: site.block]:
                patches.enter_context(forward_replaced(block, hand_on))
        if site.block == 0:
            patches.enter_context(input_written(blocks[0], enter))
        else:
            patches.enter_context(output_written(blocks[site.block - 1], enter))
        self._substitute_module(site, start, changed, patches)

    def _substitute_module(
        self, site: Site, start: Tensor, changed: Tensor, patches: ExitStack
    ) -> None:
        if site.module is None:
            return
        module = self.host.model.get_submodule(site.module)
        if site.kind is Kind.MODULE_INPUT:
            patches.enter_context(input_written(module, changed))
        elif site.kind is Kind.RESID_MID:
            patches.enter_context(output_written(module, changed - start))
        else:
            patches.enter_context(output_written(module, changed))


def _blocks_needed(site: Site) -> int:
    return site.block if site.kind is Kind.BLOCK_INPUT else site.block + 1


def _activation(site: Site, kept: dict[tuple[Site, str], Tensor]) -> Tensor:
    if site.kind is Kind.BLOCK_INPUT:
        return kept[site, "start"]
    if site.kind is Kind.RESID_MID:
        return kept[site, "start"] + kept[site, "module"]
    return kept[site, "module"]
