"""A window's pass is the full pass's last positions: five architectures, every hook, any start."""

from typing import Any

import pytest
import torch
from families import FAMILIES, LAYERS, hooks_on, host_of, make_host, random_ids
from torch import Tensor

from saebench.errors import HookError, HostError
from saebench.subjects.hooks import Site, find_site
from saebench.substitution import prefix
from saebench.substitution.passes import Passes
from saebench.substitution.prefix import PrefixPasses, Window

BATCH, LENGTH = 3, 48  # gemma2's sliding window is 16
HOOKS = [
    "blocks.0.hook_resid_pre",
    "blocks.1.hook_resid_pre",
    f"blocks.{LAYERS - 1}.hook_resid_post",
    "blocks.1.hook_resid_mid",
    "blocks.1.hook_attn_out",
    f"blocks.{LAYERS - 1}.hook_mlp_out",
    "blocks.1.attn.hook_z",
    "blocks.1.mlp.hook_post",
]
every_family = pytest.mark.parametrize("family", FAMILIES)
every_hook = pytest.mark.parametrize("hook", HOOKS)
every_start = pytest.mark.parametrize("position", [0, 1, 30, LENGTH - 1])


def _site(family: str, hook: str) -> Site:
    try:
        return find_site(host_of(family), hook)
    except HookError:
        pytest.skip(f"{family} has no {hook}")


def _changed(window: Window, site: Site, *, stack: int = 4) -> Tensor:
    """Return the window's activations, stacked, with noise at the first position alone."""
    changed = window.tail.activations[site].repeat(stack, 1, 1, 1)
    generator = torch.Generator().manual_seed(7)
    noise = torch.randn(changed[:, :, 0].shape, generator=generator)
    changed[:, :, 0] += noise.to(changed.dtype)
    return changed


def _full(family: str, site: Site, changed: Tensor, position: int) -> Tensor:
    """Run all positions for each of the stack, one by one."""
    passes, ids = Passes(host_of(family)), random_ids(BATCH, LENGTH)
    clean = passes.clean(ids, [site])
    found = []
    for each in changed:
        whole = clean.activations[site].clone()
        whole[:, position] = each[:, 0]
        found.append(passes.resume(clean, site, whole[None])[0, :, position:])
    return torch.stack(found)


@every_family
@every_hook
@every_start
def test_a_window_gives_what_all_positions_give(family, hook, position):
    site = _site(family, hook)
    passes = PrefixPasses(host_of(family), position=position)
    window = passes.clean(random_ids(BATCH, LENGTH), [site])
    changed = _changed(window, site)
    found, expected = passes.resume(window, site, changed), _full(family, site, changed, position)
    assert passes.path(site) == "prefix"
    # Some roundings of fp32: a window's matrix products are of other shapes.
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    clean = window.tail.final
    assert clean is not None
    assert not torch.allclose(found[0], clean, rtol=1e-3)


@every_family
def test_one_clean_pass_serves_every_hook(family):
    sites = [_site(family, h) for h in HOOKS if (family, h) != ("gpt_neox", HOOKS[3])]
    passes = PrefixPasses(host_of(family), position=30)
    window = passes.clean(random_ids(BATCH, LENGTH), sites)
    for site in sites:
        changed = _changed(window, site)
        found = passes.resume(window, site, changed)
        expected = _full(family, site, changed, 30)
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@every_family
def test_the_clean_pass_and_the_replacement_stay_as_they_are(family):
    site = _site(family, "blocks.1.hook_attn_out")
    passes = PrefixPasses(host_of(family), position=30)
    window = passes.clean(random_ids(BATCH, LENGTH), [site])
    assert window.kept is not None
    changed = _changed(window, site)
    before = [changed.clone(), window.tail.activations[site].clone()]
    keys = {layer: k.clone() for layer, (k, _) in window.kept.items()}
    passes.resume(window, site, changed)
    passes.resume(window, site, changed)
    assert torch.equal(changed, before[0])
    assert torch.equal(window.tail.activations[site], before[1])
    assert all(torch.equal(k, keys[layer]) for layer, (k, _) in window.kept.items())


def test_only_layers_that_are_run_keep_their_prefix():
    site = _site("llama", "blocks.1.hook_resid_pre")
    window = PrefixPasses(host_of("llama"), position=30).clean(random_ids(BATCH, LENGTH), [site])
    assert window.kept is not None
    assert set(window.kept) == set(range(1, LAYERS))
    assert {keys.shape[-2] for keys, _ in window.kept.values()} == {30}


@every_family
@every_hook
def test_after_a_window_the_model_is_as_it_was(family, hook):
    site, host = _site(family, hook), host_of(family)
    count = hooks_on(host.model)
    passes = PrefixPasses(host, position=30)
    window = passes.clean(random_ids(BATCH, LENGTH), [site])
    passes.resume(window, site, _changed(window, site))
    assert hooks_on(host.model) == count


def test_after_an_exception_the_model_is_as_it_was():
    site, host = _site("llama", HOOKS[1]), host_of("llama")
    count = hooks_on(host.model)
    passes = PrefixPasses(host, position=30)
    window = passes.clean(random_ids(BATCH, LENGTH), [site])
    changed = _changed(window, site)
    passes.resume(window, site, changed)
    handle = host.blocks[-1].register_forward_hook(_raise)
    for attempt in (lambda: passes.resume(window, site, changed),
                    lambda: passes.clean(random_ids(BATCH, LENGTH), [site])):  # fmt: skip
        with pytest.raises(HostError, match="on purpose"):
            attempt()
    handle.remove()
    assert hooks_on(host.model) == count


def _raise(*_: Any) -> None:
    raise RuntimeError("on purpose")


def _forgetful(prefix_rows: Tensor, new: Tensor) -> Tensor:
    """Stand for a model whose cache does not hold what its own pass attended to."""
    return torch.cat([(0.5 * prefix_rows).repeat(len(new) // len(prefix_rows), 1, 1, 1), new], -2)


@every_family
def test_a_window_that_is_not_the_full_pass_is_not_used_and_said(family, monkeypatch):
    monkeypatch.setattr(prefix, "_appended", _forgetful)
    site = _site(family, HOOKS[1])
    passes = PrefixPasses(host_of(family), position=30)
    window = passes.clean(random_ids(BATCH, LENGTH), [site])
    changed = _changed(window, site)
    found = passes.resume(window, site, changed)
    assert passes.path(site) == "resumed"
    assert torch.allclose(found, _full(family, site, changed, 30), rtol=1e-5, atol=1e-5)


def test_a_model_that_keeps_no_keys_is_run_in_full(monkeypatch):
    monkeypatch.setattr(prefix._Recorder, "update", lambda _, keys, values, *__: (keys, values))
    monkeypatch.setattr(Passes, "is_exact", lambda *_: False)
    site = _site("gpt2", HOOKS[1])
    passes = PrefixPasses(host_of("gpt2"), position=30)
    window = passes.clean(random_ids(BATCH, LENGTH), [site])
    changed = _changed(window, site)
    found = passes.resume(window, site, changed)
    assert (window.kept, passes.path(site)) == (None, "full")
    assert torch.allclose(found, _full("gpt2", site, changed, 30), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@every_family
def test_models_of_half_precision_are_run_in_windows_too(family, dtype):
    host = make_host(family)
    host.model.to(dtype)
    site = find_site(host, HOOKS[1])
    passes = PrefixPasses(host, position=30)
    window = passes.clean(random_ids(BATCH, LENGTH), [site])
    passes.resume(window, site, _changed(window, site))
    assert passes.path(site) == "prefix"
