"""The formula against torch's own counter, on a tiny model that is really run."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from perf.flops import ModelShape, Product, Work, block_products, products, total_flops
from perf.machine import Rates

SHAPE = ModelShape(layers=3, d_model=32, d_mlp=128, heads=4, d_head=8, vocab=97)
WORK = Work(
    sequences=2, context=12, resumed_from=(1, 2), saes=1, d_sae=64, active=64, resumed_once=(1,)
)


@pytest.fixture(scope="module")
def model():
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_layer": 3, "n_embd": 32, "n_head": 4, "vocab_size": 97, "n_positions": 12}
    # The eager kernel multiplies whole score matrices, which is what the counter sees.
    return GPT2LMHeadModel(GPT2Config(**sizes, attn_implementation="eager")).eval()


def _counted_by_torch(call) -> int:
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def test_a_whole_measurement_is_what_torch_counts(model):
    ids = torch.zeros(WORK.sequences, WORK.context, dtype=torch.int64)
    encoder, decoder = torch.ones(32, 64), torch.ones(64, 32)

    def measurement():
        states = model.transformer(ids, output_hidden_states=True).hidden_states
        scored = [states[-1][:, 1:]]
        _ = scored[0] @ encoder @ decoder
        every = [(start, states[start]) for start in WORK.resumed_from]
        once = [(start, states[start][:1]) for start in WORK.resumed_once]
        for start, hidden in every + once:
            for block in model.transformer.h[start:]:
                hidden = block(hidden)
                hidden = hidden[0] if isinstance(hidden, tuple) else hidden
            scored.append(hidden[:, 1:])
        for hidden in scored:
            model.lm_head(hidden)

    assert total_flops(products(SHAPE, WORK, causal=False)) == _counted_by_torch(measurement)


def test_one_clean_pass_is_what_torch_counts(model):
    ids = torch.zeros(5, 7, dtype=torch.int64)
    counted = block_products(SHAPE, sequences=5, context=7, times=3, causal=False)
    assert total_flops(counted) == _counted_by_torch(lambda: model.transformer(ids))


def test_causal_attention_needs_one_score_for_every_earlier_token():
    """Counted one by one: token t reads t + 1 keys."""
    work = replace(WORK, resumed_once=())
    [scores] = [p for p in products(SHAPE, work) if p.name == "scores"]
    pairs = sum(t + 1 for t in range(WORK.context))
    blocks = 3 + 2 + 1
    by_hand = 2 * pairs * SHAPE.d_head * SHAPE.heads * WORK.sequences * blocks
    assert scores.flops == pytest.approx(by_hand, rel=1e-12)


@given(start=st.integers(0, 3), more=st.lists(st.integers(0, 3), max_size=4))
def test_a_later_block_and_fewer_substitutions_cost_less(start: int, more: list[int]):
    work = replace(WORK, resumed_from=(start, *more))
    fewer = replace(WORK, resumed_from=tuple(more))
    later = replace(WORK, resumed_from=(start + 1, *more))
    cost = total_flops(products(SHAPE, work))
    assert cost > total_flops(products(SHAPE, fewer))
    assert start == 3 or cost > total_flops(products(SHAPE, later))


def test_the_floor_divides_each_product_by_its_own_rate():
    dense = Product("unembedding", rows=10, inner=10, columns=10, times=1)
    gathered = Product("sae decode", rows=5, inner=10, columns=10, times=1, sparse=True)
    rates = Rates({"unembedding": 1000.0, "qkv": 2000.0})
    assert rates.seconds([dense, gathered]) == pytest.approx(2000 / 1000 + 1000 / 2000)


def test_rates_keep_the_best_sample_of_every_dense_shape():
    rates = Rates({"qkv": 1e30})
    rates.sample(products(SHAPE, WORK))
    assert rates.best["qkv"] == 1e30
    assert set(rates.best) == {p.name for p in products(SHAPE, WORK) if not p.sparse}
    assert all(rate > 0 for rate in rates.best.values())
