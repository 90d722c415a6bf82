"""Hook names are resolved to sites in the model, or an error says what was expected."""

import pytest
import torch
from families import FAMILIES, HEADS, WIDTH, make_host

from saebench.errors import HookError
from saebench.subjects.hooks import Kind, find_site


def test_resid_post_is_the_next_blocks_input():
    host = make_host("llama")
    post = find_site(host, "blocks.1.hook_resid_post")
    pre = find_site(host, "blocks.2.hook_resid_pre")
    assert (post.kind, post.block, post.module) == (pre.kind, pre.block, pre.module)
    assert pre.kind is Kind.BLOCK_INPUT


@pytest.mark.parametrize("family", FAMILIES)
def test_a_decoder_layers_path_is_its_output(family: str):
    host = make_host(family)
    site = find_site(host, host.block_paths[1], module_path=True)
    assert (site.kind, site.block) == (Kind.BLOCK_INPUT, 2)


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        ("blocks.9.hook_resid_pre", "has 3 blocks, 0 to 2"),
        ("blocks.1.hook_resid_prE", "did you mean 'hook_resid_pre'"),
        ("blocks.1.attn.hook_pattern", "cannot be substituted"),
        ("hook_embed", "expected blocks.LAYER.HOOK"),
        ("model.norm", "no module in a block"),
    ],
)
def test_a_place_that_is_not_there_is_an_error(hook: str, said: str):
    with pytest.raises(HookError, match=said):
        find_site(make_host("llama"), hook)


def test_a_module_path_that_does_not_exist_names_the_nearest():
    with pytest.raises(HookError, match=r"did you mean 'model.layers.1'"):
        find_site(make_host("llama"), "model.layer.1", module_path=True)


@pytest.mark.parametrize("head", [-1, HEADS])
def test_a_head_that_is_not_there_is_an_error(head: int):
    with pytest.raises(HookError, match=f"the model has {HEADS} heads"):
        find_site(make_host("llama"), "blocks.1.attn.hook_z", head=head)


def test_a_head_of_another_hook_is_an_error():
    with pytest.raises(HookError, match="only hook_z has heads"):
        find_site(make_host("llama"), "blocks.1.hook_resid_pre", head=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_hook_z_is_as_wide_as_the_projection_and_a_head_is_its_share(family: str):
    host = make_host(family)
    whole = find_site(host, "blocks.1.attn.hook_z")
    one = find_site(host, "blocks.1.attn.hook_z", head=1)
    assert (whole.width, one.width) == (WIDTH, WIDTH // HEADS)


def test_hook_z_may_be_wider_than_the_residual_stream():
    host = make_host("gemma2", head_dim=16)
    assert find_site(host, "blocks.1.attn.hook_z").width == 16 * HEADS


def test_a_module_inside_a_block_is_as_wide_as_its_output():
    host = make_host("llama")
    assert find_site(host, "model.layers.1.mlp.gate_proj").width == 48


@pytest.mark.parametrize(("family", "centred"), [("gpt2", True), ("llama", False)])
def test_only_layer_norm_models_are_centred(family: str, centred: bool):
    site = find_site(make_host(family), "blocks.1.hook_resid_pre", centred=True)
    assert site.centred is centred
    assert not find_site(make_host(family), "blocks.1.attn.hook_z", centred=True).centred


@pytest.mark.parametrize("family", FAMILIES)
def test_a_path_without_the_base_models_prefix_is_the_same_place(family: str):
    host = make_host(family)
    short = host.block_paths[1].removeprefix(f"{host.model.base_model_prefix}.")
    for path in (short, f"{short}.mlp"):
        here = find_site(host, path, module_path=True)
        full = find_site(host, f"{host.model.base_model_prefix}.{path}", module_path=True)
        assert (here.kind, here.block, here.module) == (full.kind, full.block, full.module)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_path_may_say_which_side_of_the_module_it_means(family: str):
    host = make_host(family)
    block = host.block_paths[1]
    sides = [find_site(host, f"{block}{side}") for side in (".input", ".output", "")]
    assert [(s.kind, s.block) for s in sides] == [(Kind.BLOCK_INPUT, n) for n in (1, 2, 2)]
    into, out = (find_site(host, f"{block}.mlp{side}") for side in (".input", ".output"))
    assert (into.kind, out.kind) == (Kind.MODULE_INPUT, Kind.MODULE_OUTPUT)
    assert (into.module, into.width) == (out.module, out.width) == (f"{block}.mlp", WIDTH)


def test_a_modules_input_may_be_of_another_width_than_its_output():
    host = make_host("llama")
    assert find_site(host, "model.layers.1.mlp.down_proj.input").width == 48
    assert find_site(host, "model.layers.1.mlp.down_proj.output").width == WIDTH


@pytest.mark.parametrize("family", FAMILIES)
def test_the_mlps_hook_in_is_its_input(family: str):
    host = make_host(family)
    named = find_site(host, "blocks.1.mlp.hook_in")
    path = find_site(host, f"{host.block_paths[1]}.mlp.input")
    assert (named.kind, named.module, named.width) == (path.kind, path.module, path.width)


@pytest.mark.parametrize("hook", ["blocks.1.hook_in", "blocks.1.attn.hook_in"])
def test_hook_in_of_anything_else_is_an_error(hook: str):
    with pytest.raises(HookError, match="cannot be substituted here; did you mean"):
        find_site(make_host("llama"), hook)


@pytest.mark.parametrize("side", ["", ".input", ".output"])
def test_a_module_that_is_not_in_the_block_is_an_error(side: str):
    with pytest.raises(HookError, match="no module in a block"):
        find_site(make_host("llama"), f"model.layers.1.gone{side}", module_path=True)


@pytest.mark.parametrize("side", ["input", "output"])
def test_a_module_without_an_activation_for_each_token_is_an_error(side: str):
    host = make_host("llama")
    host.blocks[1].unused = torch.nn.Linear(2, 2)
    with pytest.raises(HookError, match=f"has no {side} for each token"):
        find_site(host, f"model.layers.1.unused.{side}")


@pytest.mark.parametrize(
    "spelling", ["model.layers.1", "layers.1", "model.language_model.layers.1"]
)
def test_a_wrapped_language_models_layers_are_found_under_every_spelling(spelling: str):
    """Gemma Scope 2 names Gemma 3's layers as the language model alone has them."""
    host = make_host("llama")
    wrapped = find_site(host, f"{spelling}.mlp.input", module_path=True)
    assert wrapped.module == "model.layers.1.mlp"


@pytest.mark.parametrize(
    ("family", "hook", "module"),
    [
        ("llama", "attn.hook_q", "self_attn.q_proj"), ("llama", "attn.hook_k", "self_attn.k_proj"),
        ("llama", "mlp.hook_pre", "mlp.gate_proj"), ("gpt2", "mlp.hook_pre", "mlp.c_fc"),
    ],
)  # fmt: skip
def test_projections_are_the_modules_that_transformer_lens_means(family, hook, module):
    host = make_host(family)
    site = find_site(host, f"blocks.1.{hook}")
    assert (site.kind, site.module) == (Kind.MODULE_OUTPUT, f"{host.block_paths[1]}.{module}")


@pytest.mark.parametrize("hook", ["attn.hook_q", "attn.hook_k", "attn.hook_v"])
def test_a_projection_that_gives_several_at_once_is_an_error(hook: str):
    with pytest.raises(HookError, match="no module has it as input or output for each token"):
        find_site(make_host("gpt2"), f"blocks.1.{hook}")
