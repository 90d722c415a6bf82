"""The clean pass, and passes resumed from the hooked block."""

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

SHORTEST = 16  # tokens of a proof, where memory runs out on more
NOISE = 0.1  # of an activation's standard deviation
UNCHANGED = 1e-4  # relative, fp32: start + (x − start) is x up to a rounding, through many blocks


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
        later = self._blocks_after(sites) if stop_early else range(0)
        try:
            kept, final = self._read(ids, sites, later)
        except SaebenchError:
            if not later:
                raise
            # Some models cannot do without the later blocks, whatever is handed on.
            kept, final = self._read(ids, sites, range(0))
        starts = {site: kept[site, "start"] for site in sites}
        activations = {site: self._activation(site, kept, ids) for site in sites}
        return CleanPass(ids, None if stop_early else final, activations, starts)

    def _blocks_after(self, sites: Sequence[Site]) -> range:
        """Return the blocks that no site needs."""
        blocks = self.host.stack.blocks
        return range(max(_blocks_needed(site) for site in sites), len(blocks))

    def _read(
        self, ids: Int[Tensor, "batch pos"], sites: Sequence[Site], leave_out: range
    ) -> tuple[dict[tuple[Site, str], Tensor], Tensor]:
        kept: dict[tuple[Site, str], Tensor] = {}
        with ExitStack() as patches:
            for site in sites:
                self._capture(site, kept, patches)
            patches.enter_context(skipped(self.host, leave_out))
            return kept, self.host.final_hidden(ids)

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
        ids = clean.ids.repeat(stack, 1)
        return CleanPass(
            ids,
            final,
            {later: self._activation(later, kept, ids) for later in sites},
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

    def prove(self, site: Site, ids: Int[Tensor, "batch pos"]) -> None:
        """Try a site on some of a run's own tokens, as far as their context goes.

        Raises:
            HookError: where substituting there does not do what it should.
            HostError: where the model cannot be run on such tokens.
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
        """Run two sequences that are given the same activation, with and without the start."""
        clean = self.clean(ids, [site])
        x = clean.activations[site]
        self._check_unchanged(clean, site, x)
        # Another position's activation, and noise: the same in both rows, and in neither its own.
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
        """Put the activation back as it is: the model must give what it gave.

        Raises:
            HookError: where it does not.
        """
        found = self._resumed(clean, site, x, (), skip=False).final
        assert found is not None
        assert clean.final is not None
        gap = (found.float() - clean.final.float()).abs().max()
        size = clean.final.float().abs().max()
        if not gap <= max(UNCHANGED, 8 * self.host.rounding) * size:
            raise HookError(
                f"hook {site.hook!r} of {self.host.kind}: "
                f"putting the unchanged activation back changes the model's final hidden states by "
                f"{float(gap):.3g} (of {float(size):.3g}), so nothing can be substituted there"
            )

    def _resumes(self, clean: CleanPass, site: Site, same: Tensor, full: Tensor) -> bool:
        """True where leaving out the blocks before gives the same bits."""
        try:
            resumed = self._resumed(clean, site, same, (), skip=True).final
        except SaebenchError:
            return False
        return resumed is not None and torch.equal(full, resumed)

    def _capture(
        self, site: Site, kept: dict[tuple[Site, str], Tensor], patches: ExitStack
    ) -> None:
        blocks = self.host.blocks

        def keep(what: str) -> Callable[[Tensor], None]:
            # A copy: what comes after may work in place, as Falcon does on its MLP's output.
            return lambda value: kept.__setitem__((site, what), value.clone())

        if site.block < len(blocks):
            patches.enter_context(input_read(blocks[site.block], keep("start")))
        else:
            patches.enter_context(output_read(blocks[-1], keep("start")))
        if site.module is not None:
            module = self.host.model.get_submodule(site.module)
            is_input = site.kind in (Kind.MODULE_INPUT, Kind.NORMALISED)
            read = input_read if is_input else output_read
            patches.enter_context(read(module, keep("module")))

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
        self, site: Site, kept: dict[tuple[Site, str], Tensor], ids: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos width"]:
        """Return a site's activation, one vector for each token."""
        if site.kind is Kind.BLOCK_INPUT:
            return kept[site, "start"]
        module = by_token(kept[site, "module"], ids, where=str(site.module))
        if site.kind is Kind.RESID_MID:
            return kept[site, "start"] + module
        if site.kind is Kind.NORMALISED:
            return self.host.unit_norm(str(site.module)).normalised(module)
        return module


def _two_that_differ(ids: Int[Tensor, "batch pos"]) -> Int[Tensor, "2 pos"]:
    """Return the first two sequences that differ, else the first and its tokens in reverse."""
    other = next((row for row in ids[1:] if not torch.equal(row, ids[0])), ids[0].flip(0))
    return torch.stack([ids[0], other])


def _blocks_needed(site: Site) -> int:
    return site.block if site.kind is Kind.BLOCK_INPUT else site.block + 1
