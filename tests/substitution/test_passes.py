"""A resumed pass is the full pass: five architectures, every hook, plain hooks as reference."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from families import FAMILIES, HEADS, LAYERS, WIDTH, hooks_on, host_of, make_host, random_ids
from torch import Tensor, nn

from saebench.errors import HookError, HostError
from saebench.subjects.hooks import Site, find_site
from saebench.substitution.batches import read_rows, write_rows
from saebench.substitution.passes import Passes

HOOKS = [
    "blocks.0.hook_resid_pre",
    "blocks.1.hook_resid_pre",
    "blocks.1.hook_resid_post",
    f"blocks.{LAYERS - 1}.hook_resid_post",
    "blocks.0.hook_attn_out",
    "blocks.1.hook_attn_out",
    "blocks.1.hook_mlp_out",
    f"blocks.{LAYERS - 1}.hook_mlp_out",
    "blocks.1.attn.hook_z",
    "BLOCK 1",
]
BLOCKS = {
    "gpt2": ("transformer.h", "attn", "mlp", "attn.c_proj"),
    "llama": ("model.layers", "self_attn", "mlp", "self_attn.o_proj"),
    "gpt_neox": ("gpt_neox.layers", "attention", "mlp", "attention.dense"),
    "gemma2": (
        "model.layers",
        "post_attention_layernorm",
        "post_feedforward_layernorm",
        "self_attn.o_proj",
    ),
    "qwen2": ("model.layers", "self_attn", "mlp", "self_attn.o_proj"),
}
every_family = pytest.mark.parametrize("family", FAMILIES)
every_hook = pytest.mark.parametrize("hook", HOOKS)
with_middle = pytest.mark.parametrize("family", [f for f in FAMILIES if f != "gpt_neox"])


def _ids() -> Tensor:
    return random_ids(2, 20)


def _site(family: str, hook: str) -> Site:
    if hook == "BLOCK 1":
        return find_site(host_of(family), f"{BLOCKS[family][0]}.1", module_path=True)
    return find_site(host_of(family), hook)


def _random(seed: int = 1) -> Tensor:
    return torch.randn(2, 20, WIDTH, generator=torch.Generator().manual_seed(seed))


@contextmanager
def _written(module: nn.Module, value: Tensor, *, output: bool) -> Iterator[None]:
    """Write a module's input or output with a plain hook, independent of saebench's."""

    def pre(_: Any, args: tuple, kwargs: dict) -> Any:
        if args:
            return (value, *args[1:]), kwargs
        return args, kwargs | {"hidden_states": value}

    def post(_: Any, __: Any, out: Any) -> Any:
        return (value, *out[1:]) if isinstance(out, tuple) else value

    handle = (
        module.register_forward_hook(post)
        if output
        else module.register_forward_pre_hook(pre, with_kwargs=True)
    )
    yield
    handle.remove()


def _place(family: str, hook: str) -> tuple[nn.Module, bool]:
    """Return the module that a hook means, and whether its output is meant."""
    model = host_of(family).model
    path, attention, mlp, projection = BLOCKS[family]
    layer = 1 if hook == "BLOCK 1" else int(hook.split(".")[1])
    block = model.get_submodule(f"{path}.{layer}")
    if hook == "BLOCK 1" or hook.endswith("resid_post"):
        return block, True
    if hook.endswith("resid_pre"):
        return block, False
    part = {"hook_attn_out": attention, "hook_mlp_out": mlp, "hook_z": projection}
    name = hook.rsplit(".", 1)[1]
    return block.get_submodule(part[name]), name != "hook_z"


@torch.inference_mode()
def _plain_logits(family: str) -> Tensor:
    """Run the whole model as transformers does, but for GPT-2's GELU: its bits are torch's own."""
    host = host_of(family)
    with host.gelus_in_one():
        return host.model(input_ids=_ids(), use_cache=False).logits


@torch.inference_mode()
def _full_logits(family: str, hook: str, value: Tensor) -> Tensor:
    module, output = _place(family, hook)
    with _written(module, value, output=output):
        return _plain_logits(family)


@torch.inference_mode()
def _resumed_logits(family: str, site: Site, change: Callable[[Tensor], Tensor]) -> Tensor:
    host = host_of(family)
    passes = Passes(host)
    clean = passes.clean(_ids(), [site])
    changed = change(clean.activations[site])
    final = passes.resume(clean, site, changed[None])[0]
    return host.model.get_output_embeddings()(final)


def _capped(family: str, logits: Tensor) -> Tensor:
    cap = getattr(host_of(family).config, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


@every_family
@every_hook
def test_resuming_with_the_unchanged_activation_is_exactly_the_plain_pass(family, hook):
    found = _resumed_logits(family, _site(family, hook), lambda x: x.clone())
    assert torch.equal(_capped(family, found), _plain_logits(family))


@every_family
@every_hook
def test_resuming_with_another_activation_is_exactly_the_full_hooked_pass(family, hook):
    found = _resumed_logits(family, _site(family, hook), lambda _: _random())
    assert torch.equal(_capped(family, found), _full_logits(family, hook, _random()))


@every_family
@every_hook
def test_the_activation_is_what_a_plain_hook_sees(family, hook):
    host, site = host_of(family), _site(family, hook)
    seen: list[Tensor] = []
    module, output = _place(family, hook)

    def first(value: Any) -> None:
        seen.append(value[0] if isinstance(value, tuple) else value)

    if output:
        handle = module.register_forward_hook(lambda _, __, out: first(out))
    else:
        handle = module.register_forward_pre_hook(
            lambda _, args, kw: first(args or kw["hidden_states"]), with_kwargs=True
        )
    passes = Passes(host)
    clean = passes.clean(_ids(), [site])
    handle.remove()
    assert torch.equal(clean.activations[site], seen[0])


@every_family
@every_hook
def test_every_site_of_these_architectures_is_resumed_exactly(family, hook):
    assert Passes(host_of(family)).is_exact(_site(family, hook))


@every_family
def test_a_stack_gives_what_each_substitution_gives_alone(family):
    host, site = host_of(family), _site(family, "blocks.1.hook_resid_pre")
    passes = Passes(host)
    clean = passes.clean(_ids(), [site])
    stacked = torch.stack([_random(s) for s in range(3)])
    together = passes.resume(clean, site, stacked)
    for changed, found in zip(stacked, together, strict=True):
        alone = passes.resume(clean, site, changed[None])[0]
        # A larger batch may take another matrix kernel: fp32 rounding through two blocks.
        torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-4)


def _middle_by_hand(family: str, block: nn.Module, resid_mid: Tensor) -> Tensor:
    """The second half of a block, from its definition."""
    if family == "gpt2":
        return resid_mid + block.mlp(block.ln_2(resid_mid))
    if family == "gemma2":
        mlp = block.mlp(block.pre_feedforward_layernorm(resid_mid))
        return resid_mid + block.post_feedforward_layernorm(mlp)
    return resid_mid + block.mlp(block.post_attention_layernorm(resid_mid))


@with_middle
@pytest.mark.parametrize("layer", range(LAYERS))
def test_resid_mid_substitutes_the_stream_and_not_the_mlps_branch_alone(family, layer):
    hook = f"blocks.{layer}.hook_resid_mid"
    found = _resumed_logits(family, _site(family, hook), lambda _: _random())
    block = host_of(family).blocks[layer]
    with torch.inference_mode():
        after = _middle_by_hand(family, block, _random())
    expected = _full_logits(family, f"blocks.{layer}.hook_resid_post", after)
    # start + (x' - start) is x' up to one rounding of fp32, through two blocks: logits of ~10.
    torch.testing.assert_close(_capped(family, found), expected, rtol=1e-4, atol=1e-4)


@with_middle
def test_unchanged_resid_mid_is_the_plain_pass_up_to_rounding(family):
    found = _resumed_logits(family, _site(family, "blocks.1.hook_resid_mid"), lambda x: x.clone())
    torch.testing.assert_close(
        _capped(family, found), _plain_logits(family), rtol=1e-4, atol=1e-4
    )  # as above


def test_a_parallel_block_has_no_resid_mid():
    with pytest.raises(HookError, match="in parallel"):
        _site("gpt_neox", "blocks.1.hook_resid_mid")


@every_family
@pytest.mark.parametrize("head", range(HEADS))
def test_one_head_is_substituted_alone(family, head):
    host = host_of(family)
    site = find_site(host, "blocks.1.attn.hook_z", head=head)
    d_head = WIDTH // HEADS
    every = torch.ones(2, 20, dtype=torch.bool)
    mine = torch.randn(40, d_head, generator=torch.Generator().manual_seed(3))
    whole = Passes(host).clean(_ids(), [site]).activations[site].clone()

    def changed(x: Tensor) -> Tensor:
        out = x.clone()
        write_rows(site, out, mine, every)
        return out

    columns = slice(head * d_head, (head + 1) * d_head)
    assert torch.equal(read_rows(site, whole, every), whole.flatten(0, 1)[:, columns])
    whole[..., columns] = mine.view(2, 20, d_head)
    expected = _full_logits(family, "blocks.1.attn.hook_z", whole)
    assert torch.equal(_capped(family, _resumed_logits(family, site, changed)), expected)


@every_family
@every_hook
def test_after_a_pass_the_model_is_as_it_was(family, hook):
    before, count = _plain_logits(family), hooks_on(host_of(family).model)
    _resumed_logits(family, _site(family, hook), lambda _: _random())
    assert hooks_on(host_of(family).model) == count
    assert torch.equal(_plain_logits(family), before)


@every_family
@pytest.mark.parametrize("hook", ["blocks.2.hook_resid_pre", "blocks.1.attn.hook_z"])
def test_after_an_exception_the_model_is_as_it_was(family, hook, monkeypatch):
    host, site = host_of(family), _site(family, hook)
    before, count = _plain_logits(family), hooks_on(host.model)
    passes = Passes(host)
    clean = passes.clean(_ids(), [site])
    handle = host.blocks[-1].register_forward_hook(_raise)
    with pytest.raises(HostError, match="on purpose"):
        passes.resume(clean, site, clean.activations[site][None])
    with pytest.raises(HostError, match="on purpose"):
        passes.clean(_ids(), [site])
    handle.remove()
    assert hooks_on(host.model) == count
    assert torch.equal(_plain_logits(family), before)


def _raise(*_: Any) -> None:
    raise RuntimeError("on purpose")


@every_family
def test_stopping_early_keeps_the_same_activations(family):
    sites = [_site(family, h) for h in HOOKS]
    passes = Passes(host_of(family))
    full, early = passes.clean(_ids(), sites), passes.clean(_ids(), sites, stop_early=True)
    assert early.final is None
    for site in sites:
        assert torch.equal(full.activations[site], early.activations[site])


@every_family
def test_resuming_leaves_the_clean_pass_and_the_replacement_as_they_are(family):
    host, site = host_of(family), _site(family, "blocks.1.hook_attn_out")
    passes = Passes(host)
    clean = passes.clean(_ids(), [site])
    kept = clean.final.clone(), clean.activations[site].clone(), clean.starts[site].clone()
    changed = _random()[None]
    passes.resume(clean, site, changed)
    assert torch.equal(changed, _random()[None])
    for mine, theirs in zip(
        kept, (clean.final, clean.activations[site], clean.starts[site]), strict=True
    ):
        assert torch.equal(mine, theirs)


PAIRS = [
    ("blocks.0.hook_resid_pre", "blocks.2.hook_resid_pre"),
    ("blocks.1.hook_resid_pre", "blocks.1.attn.hook_z"),
    ("blocks.1.hook_resid_pre", "blocks.1.hook_resid_post"),
    ("blocks.1.attn.hook_z", "blocks.1.hook_mlp_out"),
    ("blocks.1.attn.hook_z", "blocks.1.hook_attn_out"),
    ("blocks.1.hook_attn_out", "blocks.1.hook_mlp_out"),
    ("blocks.0.hook_attn_out", "blocks.1.hook_mlp_out"),
    ("blocks.1.hook_mlp_out", f"blocks.{LAYERS - 1}.hook_resid_post"),
]
every_pair = pytest.mark.parametrize("pair", PAIRS, ids=lambda p: f"{p[0][7:]}-{p[1][7:]}")


@torch.inference_mode()
def _both_by_hand(family: str, pair: tuple[str, str]) -> tuple[Tensor, Tensor]:
    """Replace the first and halve the second, in one plain pass; return it as it came in."""
    seen: list[Tensor] = []
    module, output = _place(family, pair[1])

    def halved(value: Any) -> Any:
        x = value[0] if isinstance(value, tuple) else value
        seen.append(x)
        return (x / 2, *value[1:]) if isinstance(value, tuple) else x / 2

    first, first_output = _place(family, pair[0])
    with _written(first, _random(), output=first_output):
        handle = (
            module.register_forward_hook(lambda _, __, out: halved(out))
            if output
            else module.register_forward_pre_hook(_argument(halved), with_kwargs=True)
        )
        logits = _plain_logits(family)
        handle.remove()
    return seen[0], logits


def _argument(change: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    def hook(_: Any, args: tuple, kwargs: dict) -> Any:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": change(kwargs["hidden_states"])}

    return hook


@every_family
@every_pair
def test_substituting_at_two_places_in_turn_is_exactly_one_pass_hooked_at_both(family, pair):
    host, (first, second) = host_of(family), (_site(family, hook) for hook in pair)
    passes = Passes(host)
    clean = passes.clean(_ids(), [first, second])
    between = passes.resume_keeping(clean, first, _random()[None], [second])
    final = passes.resume(between, second, between.activations[second][None] / 2)[0]
    with torch.inference_mode():
        found = _capped(family, host.model.get_output_embeddings()(final))
    seen, expected = _both_by_hand(family, pair)
    assert torch.equal(between.activations[second], seen)
    assert torch.equal(found, expected)


@with_middle
def test_attention_then_the_stream_behind_it_are_both_substituted(family):
    """What is written behind attention stands, whatever attention was made to say before."""
    passes, sites = Passes(host_of(family)), [
        _site(family, f"blocks.1.{name}")
        for name in ("hook_attn_out", "hook_resid_mid", "hook_mlp_out")
    ]  # fmt: skip
    clean = passes.clean(_ids(), sites)
    between = passes.resume_keeping(clean, sites[0], _random()[None], sites[1:])
    middle = clean.starts[sites[0]] + _random()
    assert torch.equal(between.activations[sites[1]], middle)
    last = passes.resume_keeping(between, sites[1], _random(2)[None], sites[2:])
    direct = passes.resume_keeping(clean, sites[1], _random(2)[None], sites[2:])
    assert torch.equal(last.activations[sites[2]], direct.activations[sites[2]])
    assert torch.equal(last.final, direct.final)


@every_family
def test_a_stack_of_passes_is_resumed_as_each_alone(family):
    first, second = _site(family, "blocks.1.attn.hook_z"), _site(family, "blocks.1.hook_mlp_out")
    passes = Passes(host_of(family))
    clean = passes.clean(_ids(), [first, second])
    stacked = torch.stack([_random(s) for s in range(3)])
    between = passes.resume_keeping(clean, first, stacked, [second])
    together = passes.resume(between, second, between.activations[second][None] / 2)[0]
    for changed, found in zip(stacked, together.unflatten(0, (3, 2)), strict=True):
        alone = passes.resume_keeping(clean, first, changed[None], [second])
        expected = passes.resume(alone, second, alone.activations[second][None] / 2)[0]
        # A larger batch may take another matrix kernel, as above.
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@every_family
def test_a_blocks_input_is_all_that_the_later_blocks_are_made_from(family):
    assert Passes(host_of(family)).is_all(_site(family, "blocks.1.hook_resid_pre"))
    assert not Passes(host_of(family)).is_all(_site(family, "blocks.1.hook_mlp_out"))


def test_a_model_that_looks_at_its_tokens_again_is_found_out():
    host = make_host("llama")

    def add_the_embedding(_: nn.Module, args: tuple, kwargs: dict, out: Any) -> Any:
        return out + 0.1 * embedded[-1]

    embedded: list[Tensor] = []
    host.model.get_input_embeddings().register_forward_hook(lambda *a: embedded.append(a[2]))
    host.blocks[-1].register_forward_hook(add_the_embedding, with_kwargs=True)
    site = find_site(host, "blocks.1.hook_resid_pre")
    assert Passes(host).is_exact(site)
    assert not Passes(host).is_all(site)


def test_a_site_is_tried_once_for_a_model(monkeypatch):
    host = make_host("llama")
    site = find_site(host, "blocks.1.hook_resid_pre")
    assert Passes(host).is_exact(site)
    monkeypatch.setattr(host, "final_hidden", _raise)
    assert Passes(host).is_exact(site)
