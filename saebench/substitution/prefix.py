"""Passes over a window of positions, with the prefix's keys and values from the clean pass."""

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
TOLERANCE = 1e-5  # relative, fp32: a window's matrix products have other shapes than a full pass's


@dataclass(frozen=True)
class Window:
    """One clean pass: positions t … t+k, and the keys and values of the prefix before them.

    Attributes:
        position: t.
        whole: the clean pass of positions 0 … t+k.
        kept: keys and values of the prefix, by layer; None if the model has no usable cache.
    """

    position: int
    whole: CleanPass
    kept: dict[int, tuple[Tensor, Tensor]] | None

    @cached_property
    def tail(self) -> CleanPass:
        """The clean pass of positions t … t+k alone."""
        whole, tail = self.whole, slice(self.position, None)
        assert whole.final is not None
        return CleanPass(
            whole.ids[:, tail],
            whole.final[:, tail],
            {site: x[:, tail] for site, x in whole.activations.items()},
            {site: x[:, tail] for site, x in whole.starts.items()},
        )


class PrefixPasses:
    """Runs a host model from position t on, with one site substituted at t.

    Nothing before t depends on what happens at t: every substitution attends to the prefix's keys
    and values of the clean pass, so that only positions t … t+k of the blocks from the site on are
    run. Whether that gives what the full pass gives is tried once for each site, on the run's own
    tokens; if not, the full pass is run.

    Args:
        host: the model.
        position: t, the first position of every window.
    """

    def __init__(self, host: Host, *, position: int) -> None:
        self.host = host
        self.position = position
        self._passes = Passes(host)
        self._paths: dict[Site, str] = {}
        self._has_cache: bool | None = None  # None: not tried yet

    @torch.inference_mode()
    def clean(self, ids: Int[Tensor, "batch pos"], sites: Sequence[Site]) -> Window:
        """Run the model unchanged up to the window's end, and capture what substitutions need.

        Args:
            ids: token ids up to the window's end.
            sites: where to read activations.
        """
        if self._has_cache is not False:
            window = self._recorded(ids, sites)
            if self._has_cache is None:
                self._has_cache = window is not None and self._is_clean(window, sites)
            if window is not None and self._has_cache:
                return window
        return Window(self.position, self._passes.clean(ids, sites), None)

    def _recorded(self, ids: Int[Tensor, "batch pos"], sites: Sequence[Site]) -> Window | None:
        """Run the model with a cache that records the prefix; None if it does not use the cache."""
        first = min(self._first_run(site) for site in sites)
        recorder = _Recorder(first=first, length=self.position)
        try:
            with self._with_cache(recorder, start=0):
                whole = self._passes.clean(ids, sites)
        except SaebenchError:
            return None  # its cache holds something other than keys and values
        complete = set(recorder.kept) == set(range(first, len(self.host.blocks)))
        return Window(self.position, whole, recorder.kept) if complete else None

    def _is_clean(self, window: Window, sites: Sequence[Site]) -> bool:
        """True if the pass that recorded keys and values agrees with one that did not."""
        plain = self._passes.clean(window.whole.ids, sites).final
        recorded = window.whole.final
        assert plain is not None
        assert recorded is not None
        return self._is_near(recorded, plain)

    def _is_near(self, actual: Tensor, expected: Tensor) -> bool:
        tolerance = TOLERANCE if self.host.is_fp32 else 8 * self.host.rounding
        gap = (actual.float() - expected.float()).abs().max()
        return bool(gap <= tolerance * expected.float().abs().max())

    @torch.inference_mode()
    def resume(
        self, window: Window, site: Site, changed: Float[Tensor, "stack batch window width"]
    ) -> Float[Tensor, "stack batch window d"]:
        """Return the window's final hidden states with the site's activation replaced.

        Args:
            window: the clean pass of the same tokens.
            site: the site.
            changed: the window's activations, of which only the first position may differ from
                the clean ones; they are not changed.
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
        """True if a large change at t gives the same in the window as in the full pass."""
        if window.kept is None:
            return False
        clean = window.tail.activations[site]
        changed = clean[None].clone()
        changed[:, :, 0] = trial_noise(clean[:, 0]) - clean[:, 0]
        try:
            continued = self._continued(window, site, changed).float()
        except SaebenchError:
            return False
        expected = self._from_the_start(window, site, changed).float()
        assert window.tail.final is not None
        # A change without any effect would agree even with a wrong prefix.
        agrees = self._is_near(continued, expected)
        return agrees and not torch.equal(expected[0], window.tail.final)

    def _continued(self, window: Window, site: Site, changed: Tensor) -> Tensor:
        assert window.kept is not None
        self._passes.is_exact(site)  # tries the site now, while the model has no cache
        prefix = Cache(layers=[_PrefixLayer(*layer) for layer in self._layers(window)])
        with self._with_cache(prefix, start=window.position):
            return self._passes.resume(window.tail, site, changed)

    def _from_the_start(self, window: Window, site: Site, changed: Tensor) -> Tensor:
        base = window.whole.activations[site]
        full = base.expand(len(changed), *base.shape).clone()
        full[:, :, window.position :] = changed
        return self._passes.resume(window.whole, site, full)[:, :, window.position :]

    def _layers(self, window: Window) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each layer's keys and values; for layers that are not run only their length."""
        recorded = window.kept or {}
        batch, device = len(window.whole.ids), window.whole.ids.device
        length_only = torch.zeros(1, dtype=torch.float32, device=device).expand(
            batch, 1, window.position, 1
        )
        for layer in range(len(self.host.blocks)):
            yield recorded.get(layer, (length_only, length_only))

    def _first_run(self, site: Site) -> int:
        return site.block if self._passes.is_exact(site) else 0

    @contextmanager
    def _with_cache(self, cache: Cache, *, start: int) -> Iterator[None]:
        """Make the model use a cache, at positions from ``start`` on."""
        accepted = inspect.signature(self.host.runs.forward).parameters

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            ids = kwargs["input_ids"]
            place = torch.arange(start, start + ids.shape[1], device=ids.device)[None]
            added = {"past_key_values": cache, "use_cache": True, "position_ids": place}
            return args, kwargs | {name: x for name, x in added.items() if name in accepted}

        with self.host.runs.register_forward_pre_hook(hook, with_kwargs=True):
            yield


class _Recorder(DynamicCache):
    """Records the first positions' keys and values of every layer from the first that is run."""

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
        """Record the prefix, and return the layer's own keys and values: nothing precedes them."""
        if layer_idx >= self._first:
            # A copy: models that project queries, keys and values at once give views of all three.
            prefix = (..., slice(self._length), slice(None))
            self.kept[layer_idx] = key_states[prefix].clone(), value_states[prefix].clone()
        return key_states, value_states


class _PrefixLayer(DynamicLayer):
    """A layer's keys and values of the prefix, read by every substitution and never extended."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the prefix's keys and values followed by each row's own."""
        assert self.keys is not None
        assert self.values is not None
        return _appended(self.keys, key_states), _appended(self.values, value_states)


def _appended(
    prefix: Float[Tensor, "batch heads prefix d"], new: Float[Tensor, "rows heads window d"]
) -> Float[Tensor, "rows heads both d"]:
    """Concatenate the prefix and each row's own; the rows are stacked batches."""
    stack, batch = len(new) // len(prefix), len(prefix)
    repeated = prefix.expand(stack, *prefix.shape)
    return torch.cat([repeated, new.unflatten(0, (stack, batch))], dim=-2).flatten(0, 1)
