"""The modules that attention and MLP add by are identified, whatever they are called."""

from typing import Any

import pytest
import torch
from families import LAYERS, make_host, make_model

from saebench.errors import HookError
from saebench.subjects.hooks import find_site
from saebench.subjects.host import Host
from saebench.subjects.parts import Form
from saebench.substitution.passes import Passes

FORMS = {
    "gpt2": Form.SEQUENTIAL, "llama": Form.SEQUENTIAL, "gemma2": Form.SEQUENTIAL,
    "gpt_neox": Form.PARALLEL,
}  # fmt: skip


def _config(name: str, **changes: Any) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
             "num_attention_heads": 4, "initializer_range": 0.3}  # fmt: skip
    return CONFIG_MAPPING[name](**(sizes | changes))


def _host(name: str, **changes: Any) -> Host:
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(_config(name, **changes)).eval()
    return Host(model, None, name=name)


@pytest.mark.parametrize("family", FORMS)
@pytest.mark.parametrize("layer", range(LAYERS))
def test_what_the_parts_add_sums_to_what_the_block_adds(family: str, layer: int):
    host = make_host(family)
    assert host.parts(layer).form is FORMS[family]
    sites = [
        find_site(host, f"blocks.{layer}.{name}")
        for name in ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post")
    ]
    clean = Passes(host).clean(host.trial_ids, sites)
    pre, attn, mlp, post = (clean.activations[site] for site in sites)
    torch.testing.assert_close(pre + attn + mlp, post, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("family", FORMS)
def test_without_an_adapter_the_parts_add_the_same(family: str):
    adapted, plain = make_host(family), Host(make_model(family), None, name=family)
    plain.__dict__["adapter"] = None
    for hook in ("hook_attn_out", "hook_mlp_out"):
        activations = []
        for host in (adapted, plain):
            site = find_site(host, f"blocks.1.{hook}")
            activations.append(Passes(host).clean(adapted.trial_ids, [site]).activations[site])
        assert torch.equal(*activations)


def test_a_block_that_norms_its_parts_adds_what_comes_out_of_the_norms():
    parts = _host("olmo2").parts(1)
    assert parts.attention == "model.layers.1.post_attention_layernorm"
    assert parts.mlp == "model.layers.1.post_feedforward_layernorm"
    assert parts.mlp_entry == "model.layers.1.mlp"


def test_a_part_that_adds_the_stream_itself_is_looked_into():
    parts = _host("bloom").parts(1)
    assert parts.attention == "transformer.h.1.self_attention.dense"
    assert parts.mlp == "transformer.h.1.mlp.dense_4h_to_h"


def test_a_stream_that_is_normalised_after_each_addition_is_told():
    parts = _host("openai-gpt", n_embd=32, n_layer=2, n_head=4).parts(1)
    assert parts.form is Form.NORMED
    assert parts.middle == "transformer.h.1.ln_1"


def test_parts_that_are_scaled_are_refused_with_their_scale():
    host = _host("granite", residual_multiplier=0.22, num_key_value_heads=2)
    with pytest.raises(HookError, match="adds 0.22 times the output of attention"):
        find_site(host, "blocks.1.hook_attn_out")


def test_the_heads_of_a_block_that_scales_its_parts_are_found_all_the_same():
    host = _host("granite", residual_multiplier=0.22, num_key_value_heads=2)
    assert find_site(host, "blocks.1.attn.hook_z").module == "model.layers.1.self_attn.o_proj"
    assert find_site(host, "blocks.1.mlp.hook_post").module == "model.layers.1.mlp.down_proj"


def test_an_mlps_last_part_is_not_what_the_mlp_reads():
    """BERT's output module is given the hidden layer, and the stream beside it."""
    site = find_site(_host("bert", is_decoder=True), "blocks.1.mlp.hook_in")
    assert site.module == "bert.encoder.layer.1.intermediate.dense"


def test_a_layer_of_another_kind_names_its_parts():
    host = _host("mamba", num_attention_heads=None)
    with pytest.raises(HookError, match=r"mixer \(MambaMixer\).*backbone\.layers\.1"):
        find_site(host, "blocks.1.attn.hook_z")


def test_the_norms_decide_whether_the_mean_is_read():
    """OLMo's LayerNorm has no weights and is no nn.LayerNorm; OLMo 2 has RMS norms."""
    assert _host("olmo").is_blind_to_mean
    assert find_site(_host("olmo"), "blocks.1.hook_resid_pre", centred=True).centred
    assert not _host("olmo2").is_blind_to_mean
