"""Passes over a window of positions: keys and values before it are those of the clean pass."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from saebench.errors import SaebenchError
from saebench.subjects.calls import trial_noise
from saebench.subjects.hooks import Site
from saebench.subjects.host import Host
from saebench.substitution.passes import CleanPass, Passes

PREFIX = "prefix"
TOLERANCE = 1e-5  # relative, fp32: a window's matrix products are of other shapes than a whole pass


@dataclass(frozen=True)
class Window:
    """What one clean pass leaves of positions t … t+k, and of the prefix before them.

    Attributes:
        position: t.
        whole: the clean pass of positions 0 … t+k.
        kept: keys and values of the prefix, by layer; None where the model keeps none.
    """

    position: int
    whole: CleanPass
    kept: dict[int, tuple[Tensor, Tensor]] | None

    @cached_property
    def tail(self) -> CleanPass:
        """The clean pass of positions t … t+k alone."""
        whole, here = self.whole, slice(self.position, None)
        assert whole.final is not None
        return CleanPass(
            whole.ids[:, here],
            whole.final[:, here],
            {site: x[:, here] for site, x in whole.activations.items()},
            {site: x[:, here] for site, x in whole.starts.items()},
        )


class PrefixPasses:
    """Runs a host model from position t on, with one site substituted there.

    Nothing before t depends on what happens at t: each layer's keys and values of the prefix are
    kept from the clean pass and shown to every substitution, so that only positions t … t+k of
    the blocks from the site on are run. Whether that gives what the full pass gives is tried once
    for each site, on the run's own tokens; where it does not, the full pass is run.

    Args:
        host: the model.
        position: t, the first position of every window.
    """

    def __init__(self, host: Host, *, position: int) -> None:
        self.host = host
        self.position = position
        self._passes = Passes(host)
        self._paths: dict[Site, str] = {}
        self._keeps: bool | None = None  # not tried yet

    @torch.inference_mode()
    def clean(self, ids: Int[Tensor, "batch pos"], sites: Sequence[Site]) -> Window:
        """Run the model unchanged up to the window's end, and keep what substitutions need.

        Args:
            ids: token ids, the window's end last.
            sites: where to read.
        """
        if self._keeps is not False:
            window = self._recorded(ids, sites)
            if self._keeps is None:
                self._keeps = window is not None and self._is_clean(window, sites)
            if window is not None and self._keeps:
                return window
        return Window(self.position, self._passes.clean(ids, sites), None)

    def _recorded(self, ids: Int[Tensor, "batch pos"], sites: Sequence[Site]) -> Window | None:
        """Run the model with a cache that keeps the prefix; None where it has no use for one."""
        first = min(self._first_run(site) for site in sites)
        recorder = _Recorder(first=first, length=self.position)
        try:
            with self._with_cache(recorder, start=0):
                whole = self._passes.clean(ids, sites)
        except SaebenchError:
            return None  # it keeps something else than keys and values
        complete = set(recorder.kept) == set(range(first, len(self.host.blocks)))
        return Window(self.position, whole, recorder.kept) if complete else None

    def _is_clean(self, window: Window, sites: Sequence[Site]) -> bool:
        """Hold the pass that kept keys and values against one that did not."""
        plain = self._passes.clean(window.whole.ids, sites).final
        found = window.whole.final
        assert plain is not None
        assert found is not None
        return self._is_near(found, plain)

    def _is_near(self, found: Tensor, expected: Tensor) -> bool:
        tolerance = TOLERANCE if self.host.is_fp32 else 8 * self.host.rounding
        gap = (found.float() - expected.float()).abs().max()
        return bool(gap <= tolerance * expected.float().abs().max())

    @torch.inference_mode()
    def resume(
        self, window: Window, site: Site, changed: Float[Tensor, "stack batch window width"]
    ) -> Float[Tensor, "stack batch window d"]:
        """Return the window's final hidden states with the site's activation replaced there.

        Args:
            window: the clean pass of the same tokens.
            site: the site.
            changed: the window's activations, of which only the first position may differ from
                the clean ones; left as they are.
        """
        if site not in self._paths:
            otherwise = "resumed" if self._passes.is_exact(site) else "full"
            self._paths[site] = PREFIX if self._agrees(window, site) else otherwise
        if self._paths[site] == PREFIX:
            return self._continued(window, site, changed)
        return self._from_the_start(window, site, changed)

    def path(self, site: Site) -> str:
        """Return how the site's windows were run: ``prefix``, else ``resumed`` or ``full``."""
        return self._paths.get(site, "not run")

    def _agrees(self, window: Window, site: Site) -> bool:
        """Hold a large change at t, run in the window, against the full pass."""
        if window.kept is None:
            return False
        clean = window.tail.activations[site]
        changed = clean[None].clone()
        changed[:, :, 0] = trial_noise(clean[:, 0]) - clean[:, 0]
        try:
            found = self._continued(window, site, changed).float()
        except SaebenchError:
            return False
        expected = self._from_the_start(window, site, changed).float()
        assert window.tail.final is not None
        # What changes nothing could not tell a wrong prefix from a right one.
        return self._is_near(found, expected) and not torch.equal(expected[0], window.tail.final)

    def _continued(self, window: Window, site: Site, changed: Tensor) -> Tensor:
        assert window.kept is not None
        self._passes.is_exact(site)  # tried here: not inside, where the model has a cache
        shown = Cache(layers=[_Shown(*layer) for layer in self._layers(window)])
        with self._with_cache(shown, start=window.position):
            return self._passes.resume(window.tail, site, changed)

    def _from_the_start(self, window: Window, site: Site, changed: Tensor) -> Tensor:
        base = window.whole.activations[site]
        whole = base.expand(len(changed), *base.shape).clone()
        whole[:, :, window.position :] = changed
        return self._passes.resume(window.whole, site, whole)[:, :, window.position :]

    def _layers(self, window: Window) -> Iterator[tuple[Tensor, Tensor]]:
        """Give each layer's keys and values; of those that are not run only the length is read."""
        kept = window.kept or {}
        batch, device = len(window.whole.ids), window.whole.ids.device
        length_only = torch.zeros(1, dtype=torch.float32, device=device).expand(
            batch, 1, window.position, 1
        )
        for layer in range(len(self.host.blocks)):
            yield kept.get(layer, (length_only, length_only))

    def _first_run(self, site: Site) -> int:
        return site.block if self._passes.is_exact(site) else 0

    @contextmanager
    def _with_cache(self, cache: Cache, *, start: int) -> Iterator[None]:
        """Have the model take keys and values from a cache, at positions from ``start`` on."""
        accepted = inspect.signature(self.host.runs.forward).parameters

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            ids = kwargs["input_ids"]
            place = torch.arange(start, start + ids.shape[1], device=ids.device)[None]
            given = {"past_key_values": cache, "use_cache": True, "position_ids": place}
            return args, kwargs | {name: x for name, x in given.items() if name in accepted}

        with self.host.runs.register_forward_pre_hook(hook, with_kwargs=True):
            yield


class _Recorder(DynamicCache):
    """Keeps the first positions' keys and values of every layer from the first that is run."""

    def __init__(self, *, first: int, length: int) -> None:
        super().__init__()
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._first = first
        self._length = length

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *_: Any,
        **__: Any,
    ) -> tuple[Tensor, Tensor]:
        """Keep what is wanted, and hand the layer's own back: there is nothing before it."""
        if layer_idx >= self._first:
            # A copy: models that project queries, keys and values at once give views of all three.
            here = (..., slice(self._length), slice(None))
            self.kept[layer_idx] = key_states[here].clone(), value_states[here].clone()
        return key_states, value_states


class _Shown(DynamicLayer):
    """A layer's keys and values of the prefix: shown to every substitution, added to by none."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the prefix and each row's own."""
        assert self.keys is not None
        assert self.values is not None
        return _appended(self.keys, key_states), _appended(self.values, value_states)


def _appended(
    prefix: Float[Tensor, "batch heads prefix d"], new: Float[Tensor, "rows heads window d"]
) -> Float[Tensor, "rows heads both d"]:
    """Put the prefix before each row's own; rows are stacked batches."""
    stack, batch = len(new) // len(prefix), len(prefix)
    shown = prefix.expand(stack, *prefix.shape)
    return torch.cat([shown, new.unflatten(0, (stack, batch))], dim=-2).flatten(0, 1)
