"""The host model: its logits, its special ids, and what it refuses."""

import copy

import pytest
import torch
from families import FAMILIES, StubTokenizer, make_host, make_model, random_ids

from saebench.errors import HostError
from saebench.measures.divergence import clean_rows, compare
from saebench.subjects.host import Host
from saebench.subjects.host_loading import official_name


@pytest.mark.parametrize("family", FAMILIES)
def test_final_hidden_and_logits_are_the_models_own(family: str):
    host, ids = make_host(family), random_ids(2, 12)
    with torch.inference_mode():
        found = host.logits(host.final_hidden(ids)[1])
        expected = host.model(input_ids=ids, use_cache=False).logits[1]
    # One fp32 matrix product on another number of rows.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_soft_cap_of_the_logits_is_honoured():
    host = make_host("gemma2", final_logit_softcapping=2.0)
    hidden = 10 * torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    weight = host.model.get_output_embeddings().weight
    expected = 2.0 * torch.tanh(hidden @ weight.T / 2.0)
    torch.testing.assert_close(host.logits(hidden), expected, rtol=1e-5, atol=1e-5)  # fp32
    assert host.logits(hidden).abs().max() <= 2.0


@torch.inference_mode()
def _kl(host: Host, noise: torch.Tensor) -> float:
    """Return the mean KL of a change of the final hidden states, read out by the host."""
    hidden = host.final_hidden(random_ids(4, 30)).flatten(0, 1)
    changed = (hidden.float() + noise).to(hidden.dtype)
    logits = [host.logits(h) for h in (hidden, changed)]
    assert all(z.dtype == torch.float32 for z in logits)
    found = compare(clean_rows(logits[0]), logits[1], targets=torch.zeros(120, dtype=torch.long))
    return float(found.kl.mean())


def test_a_bfloat16_model_is_read_out_in_float32():
    model = make_model("llama")
    noise = 0.12 * torch.randn(120, 32, generator=torch.Generator().manual_seed(0))
    exact = _kl(Host(copy.deepcopy(model), StubTokenizer(), name="fp32"), noise)
    half = Host(model.to(torch.bfloat16), StubTokenizer(), name="bf16")
    assert 0.005 < exact < 0.05
    # The 2%; log-softmax in bf16 itself is off by 17% and more.
    assert _kl(half, noise) == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("vocab", [61, 64, 1024, 2500])
def test_rows_of_logits_begin_at_cache_lines_and_are_the_plain_product(vocab: int):
    model = make_model("llama", vocab_size=vocab)
    host = Host(model, StubTokenizer(), name="m")
    hidden = torch.randn(5, host.d_model, generator=torch.Generator().manual_seed(0))
    memory = host.logits_memory(7).fill_(torch.nan)
    assert memory.shape == (7, vocab)
    assert memory.stride(0) % 16 == 0
    assert memory.stride(0) % 1024
    found = host.logits(hidden, out=memory[:5])
    expected = hidden @ model.get_output_embeddings().weight.T
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert memory[5:].isnan().all()


@torch.inference_mode()
def test_gpt2s_gelu_in_one_operation_is_the_one_that_is_spelt_out():
    host, ids = make_host("gpt2"), random_ids(2, 12)
    [activation, *_] = host._spelt_out_gelus
    expected = host.model.base_model(input_ids=ids, use_cache=False)[0]
    torch.testing.assert_close(host.final_hidden(ids), expected, rtol=1e-5, atol=1e-5)
    assert "forward" not in vars(activation)  # the model is left as it was


def test_a_model_that_scales_its_logits_is_read_out_with_its_scale():
    model = make_model("llama")
    inner = model.lm_head.forward
    model.lm_head.forward = lambda x: inner(x) * 0.5
    host = Host(model, StubTokenizer(), name="scaled")
    ids = random_ids(2, 9)
    with torch.inference_mode():
        found = host.logits(host.final_hidden(ids).flatten(0, 1))
        expected = model(input_ids=ids).logits.flatten(0, 1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_model_whose_positions_read_later_ones_is_refused():
    from transformers import BertConfig, BertLMHeadModel

    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, initializer_range=0.5,
    )  # fmt: skip
    with pytest.raises(HostError, match="not a causal language model.*is_decoder"):
        Host(BertLMHeadModel(config), StubTokenizer(), name="bert")
    config.is_decoder = True
    assert Host(BertLMHeadModel(config), StubTokenizer(), name="bert").blocks


def test_a_model_whose_weights_are_nan_is_refused():
    model = make_model("llama")
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(HostError, match="NaN or infinite"):
        Host(model, StubTokenizer(), name="broken")


def test_special_ids_leave_out_what_is_none():
    host = Host(make_model("gpt2"), StubTokenizer(7, None, 9), name="gpt2")
    assert host.special_ids == frozenset({7, 9})


def test_equal_weights_have_equal_hashes_and_others_do_not():
    one, same, other = make_host("llama"), make_host("llama"), make_host("llama", seed=1)
    assert one.record().weights_sha256 == same.record().weights_sha256
    assert one.record().weights_sha256 != other.record().weights_sha256
    assert (one.record().dtype, one.record().device) == ("float32", "cpu")


def test_an_alias_of_transformer_lens_is_its_hub_name():
    assert official_name("gpt2-small") == "gpt2"
    assert official_name("some/model") == "some/model"
