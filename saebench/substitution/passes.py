"""Forward passes: clean, and resumed from the hooked block with one site substituted."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saebench.errors import HookError, SaebenchError
from saebench.measures.resources import is_out_of_memory
from saebench.subjects.calls import by_token, trial_noise
from saebench.subjects.hooks import Kind, Site
from saebench.subjects.host import Host
from saebench.substitution.patching import (
    computed_unit,
    input_read,
    input_written,
    output_read,
    output_written,
    skipped,
)

SHORTEST = 16  # tokens to try a site on, if memory runs out on more
NOISE = 0.1  # of an activation's standard deviation
UNCHANGED = 1e-4  # relative, fp32: start + (x − start) is x up to rounding, through many blocks


@dataclass(frozen=True)
class CleanPass:
    """The results of one pass that every intervention resumed from it needs.

    Attributes:
        ids: the token ids that were run.
        final: hidden states after the final norm; None if the pass stopped early.
        activations: the activation at each site.
        starts: the input of each site's block.
        written: by site, what was substituted in it; empty for a clean pass.
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
    """The results of trying substitutions at a site of a model."""

    exact: bool
    all: bool


_TRIED: WeakKeyDictionary[Host, dict[Site, _Tried]] = WeakKeyDictionary()


class Passes:
    """Runs a host model clean, or with one site substituted.

    The blocks before a site compute the same in every intervention: their ``forward`` is replaced
    by one that returns its input, so that only the blocks from the site on are run. Whether the
    resumed pass equals the full pass is tried once for each site; if not, all blocks are run.
    """

    def __init__(self, host: Host) -> None:
        self.host = host

    @torch.inference_mode()
    def clean(
        self, ids: Int[Tensor, "batch pos"], sites: Sequence[Site], *, stop_early: bool = False
    ) -> CleanPass:
        """Run the model unchanged and capture what substitutions at the sites need.

        Args:
            ids: token ids.
            sites: where to read activations.
            stop_early: skip the blocks after the last site; there are no final hidden states.
        """
        later = self._blocks_after(sites) if stop_early else range(0)
        try:
            captured, final = self._read(ids, sites, later)
        except SaebenchError:
            if not later:
                raise
            # Some models cannot be run without their later blocks.
            captured, final = self._read(ids, sites, range(0))
        starts = {site: captured[site, "start"] for site in sites}
        activations = {site: self._activation(site, captured, ids) for site in sites}
        return CleanPass(ids, None if stop_early else final, activations, starts)

    def _blocks_after(self, sites: Sequence[Site]) -> range:
        """Return the blocks that no site needs."""
        blocks = self.host.stack.blocks
        return range(max(_blocks_needed(site) for site in sites), len(blocks))

    def _read(
        self, ids: Int[Tensor, "batch pos"], sites: Sequence[Site], skip: range
    ) -> tuple[dict[tuple[Site, str], Tensor], Tensor]:
        captured: dict[tuple[Site, str], Tensor] = {}
        with ExitStack() as patches:
            for site in sites:
                self._capture(site, captured, patches)
            patches.enter_context(skipped(self.host, skip))
            return captured, self.host.final_hidden(ids)

    @torch.inference_mode()
    def resume(
        self, clean: CleanPass, site: Site, changed: Float[Tensor, "stack batch pos width"]
    ) -> Float[Tensor, "stack batch pos d"]:
        """Return the final hidden states with the site's activation replaced.

        Args:
            clean: the clean pass of the same tokens.
            site: the site.
            changed: replacements for the whole activation, stacked; they are not changed.
        """
        resumed = self.resume_keeping(clean, site, changed, ())
        assert resumed.final is not None
        return resumed.final.unflatten(0, changed.shape[:2])

    @torch.inference_mode()
    def resume_keeping(
        self,
        clean: CleanPass,
        site: Site,
        changed: Float[Tensor, "stack batch pos width"],
        sites: Sequence[Site],
    ) -> CleanPass:
        """Resume as :meth:`resume` does, and capture what substitutions at later sites need.

        Args:
            clean: a pass of the same tokens: the clean one, or one that this function returned
                for an earlier site, whose substitution stays in place.
            site: the site.
            changed: replacements for the whole activation, stacked; they are not changed.
            sites: where to read activations, all of them after the site.

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
        captured: dict[tuple[Site, str], Tensor] = {}
        with ExitStack() as patches:
            for earlier, value in clean.written.items():
                # A substitution in an earlier block is part of the block's input already.
                if earlier.block == site.block:
                    self._substitute_module(earlier, start, value.repeat(stack, 1, 1), patches)
            self._substitute(site, start, flat, patches, skip=skip)
            for later in sites:
                self._capture(later, captured, patches)
            final = self.host.final_hidden(clean.ids.repeat(stack, 1))
        ids = clean.ids.repeat(stack, 1)
        return CleanPass(
            ids,
            final,
            {later: self._activation(later, captured, ids) for later in sites},
            {later: captured[later, "start"] for later in sites},
            clean.written | {site: flat},
        )

    @contextmanager
    def substituted(
        self, clean: CleanPass, site: Site, changed: Float[Tensor, "batch pos width"]
    ) -> Iterator[None]:
        """Replace the site's activation in every pass inside the context; all blocks are run.

        Args:
            clean: the clean pass of the tokens that are run inside.
            site: the site.
            changed: the replacement for the whole activation; it is not changed.
        """
        with ExitStack() as patches:
            self._substitute(site, clean.starts[site], changed, patches, skip=False)
            yield

    def is_exact(self, site: Site) -> bool:
        """True if resuming at this site gives exactly what the full pass gives."""
        return self._tried(site).exact

    def is_all(self, site: Site) -> bool:
        """True if everything after this site is computed from its activation alone.

        It is not if a residual connection bypasses the site, or a later block reads the token ids.
        """
        return self._tried(site).all

    def prove(self, site: Site, ids: Int[Tensor, "batch pos"]) -> None:
        """Try substituting at a site on some of a run's own sequences, at their full length.

        Raises:
            HookError: if substituting there does not have the effect that it should.
            HostError: if the model cannot be run on such sequences.
        """
        rows = _two_that_differ(ids)
        while True:
            try:
                _TRIED.setdefault(self.host, {})[site] = self._try(site, rows)
                return
            except Exception as error:
                if not is_out_of_memory(error) or rows.shape[1] < 2 * SHORTEST:
                    raise
                rows = rows[:, : rows.shape[1] // 2]

    def _tried(self, site: Site) -> _Tried:
        known = _TRIED.setdefault(self.host, {})
        if site not in known:
            known[site] = self._try(site, self.host.trial_ids)
        return known[site]

    @torch.inference_mode()
    def _try(self, site: Site, ids: Int[Tensor, "2 pos"]) -> _Tried:
        """Give two sequences the same activation; run them from the first block and resumed."""
        clean = self.clean(ids, [site])
        x = clean.activations[site]
        self._check_unchanged(clean, site, x)
        # Another position's activation plus noise: the same in both rows, and neither row's own.
        other = x[:1].roll(1, dims=1) + NOISE * trial_noise(x[:1])
        same = other.repeat(len(x), 1, 1)
        full = self._resumed(clean, site, same, (), skip=False).final
        assert full is not None
        assert clean.final is not None
        if torch.equal(full, clean.final):
            raise HookError(
                f"hook {site.hook!r} of {self.host.name}: replacing the activation there changes "
                "nothing that the model gives; the model does not compute with it"
            )
        # Rows of one matrix product may differ in their last bits.
        alike = torch.allclose(full[0], full[1], rtol=1e-4, atol=1e-5)
        differ = bool((ids[0] != ids[1]).any())
        return _Tried(exact=self._resumes(clean, site, same, full), all=differ and alike)

    def _check_unchanged(self, clean: CleanPass, site: Site, x: Tensor) -> None:
        """Check that substituting the unchanged activation leaves the model's output unchanged.

        Raises:
            HookError: if it does not.
        """
        final = self._resumed(clean, site, x, (), skip=False).final
        assert final is not None
        assert clean.final is not None
        gap = (final.float() - clean.final.float()).abs().max()
        size = clean.final.float().abs().max()
        if not gap <= max(UNCHANGED, 8 * self.host.rounding) * size:
            raise HookError(
                f"hook {site.hook!r} of {self.host.kind}: "
                f"putting the unchanged activation back changes the model's final hidden states by "
                f"{float(gap):.3g} (of {float(size):.3g}), so nothing can be substituted there"
            )

    def _resumes(self, clean: CleanPass, site: Site, same: Tensor, full: Tensor) -> bool:
        """True if skipping the blocks before the site gives the same bits."""
        try:
            resumed = self._resumed(clean, site, same, (), skip=True).final
        except SaebenchError:
            return False
        return resumed is not None and torch.equal(full, resumed)

    def _capture(
        self, site: Site, captured: dict[tuple[Site, str], Tensor], patches: ExitStack
    ) -> None:
        blocks = self.host.blocks

        def store(what: str) -> Callable[[Tensor], None]:
            # A copy: later modules may work in place, as Falcon does on its MLP's output.
            return lambda value: captured.__setitem__((site, what), value.clone())

        if site.block < len(blocks):
            patches.enter_context(input_read(blocks[site.block], store("start")))
        else:
            patches.enter_context(output_read(blocks[-1], store("start")))
        if site.module is not None:
            module = self.host.model.get_submodule(site.module)
            is_input = site.kind in (Kind.MODULE_INPUT, Kind.NORMALISED)
            read = input_read if is_input else output_read
            patches.enter_context(read(module, store("module")))

    def _substitute(
        self, site: Site, start: Tensor, changed: Tensor, patches: ExitStack, *, skip: bool
    ) -> None:
        blocks = self.host.blocks
        enter = changed if site.kind is Kind.BLOCK_INPUT else start
        if skip:
            patches.enter_context(skipped(self.host, range(site.block)))
        if site.block < len(blocks):
            patches.enter_context(input_written(blocks[site.block], enter))
        else:
            patches.enter_context(output_written(blocks[-1], enter))
        self._substitute_module(site, start, changed, patches)

    def _substitute_module(
        self, site: Site, start: Tensor, changed: Tensor, patches: ExitStack
    ) -> None:
        if site.module is None:
            return
        module = self.host.model.get_submodule(site.module)
        if site.kind is Kind.MODULE_INPUT:
            patches.enter_context(input_written(module, changed))
            return
        if site.kind is Kind.NORMALISED:
            norm = self.host.unit_norm(site.module)
            patches.enter_context(computed_unit(module, norm, lambda _: changed))
            return
        if site.kind is Kind.RESID_MID:
            changed = changed - start
        patches.enter_context(output_written(module, changed))

    def _activation(
        self, site: Site, captured: dict[tuple[Site, str], Tensor], ids: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos width"]:
        """Return a site's activation, one vector for each token."""
        if site.kind is Kind.BLOCK_INPUT:
            return captured[site, "start"]
        module = by_token(captured[site, "module"], ids, where=str(site.module))
        if site.kind is Kind.RESID_MID:
            return captured[site, "start"] + module
        if site.kind is Kind.NORMALISED:
            return self.host.unit_norm(str(site.module)).normalised(module)
        return module


def _two_that_differ(ids: Int[Tensor, "batch pos"]) -> Int[Tensor, "2 pos"]:
    """Return the first two different sequences, or the only one and its tokens in reverse."""
    other = next((row for row in ids[1:] if not torch.equal(row, ids[0])), ids[0].flip(0))
    return torch.stack([ids[0], other])


def _blocks_needed(site: Site) -> int:
    return site.block if site.kind is Kind.BLOCK_INPUT else site.block + 1
