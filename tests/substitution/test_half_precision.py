"""A model in half precision gives the divergence of the model in fp32, up to its own rounding."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from torch.nn.functional import kl_div

import saebench

NAMES = ("eps_random", "sae_norm")


@cache
def _kl(sae: str, model: str, texts: str, dtype: str) -> dict[str, float]:
    run = saebench.judge(
        sae, model, texts, sequences=16, context=128, properties=["kl_gap"],
        interventions=NAMES, dtype=dtype,
    )  # fmt: skip
    (case,) = (case for case in run.cases if case.params["scope"] == "all")
    metrics = {m.name: m.value for m in case.metrics}
    return {name: metrics[f"kl_gap.kl[{name}]"] for name in NAMES}


def _both(real_data, layer: int, dtype: str) -> tuple[dict[str, float], dict[str, float]]:
    place = (real_data.sae(f"l{layer}-standard"), real_data.model, real_data.heldout)
    return _kl(*place, "float32"), _kl(*place, dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_kl_near_a_hundredth_is_within_two_percent(real_data, dtype):
    expected, found = _both(real_data, 4, dtype)
    assert 0.005 < expected["sae_norm"] < 0.03
    assert found["sae_norm"] == pytest.approx(expected["sae_norm"], rel=0.02)


@torch.inference_mode()
def _rounding(model: str, texts: str, dtype: str) -> float:
    """Return KL from the model in fp32 to itself in another precision, by plain passes."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    documents = [json.loads(line)["text"] for line in Path(texts).read_text().splitlines()[:16]]
    tokenizer = AutoTokenizer.from_pretrained(model)
    ids = torch.tensor([tokenizer(text).input_ids[:128] for text in documents])
    fine, coarse = (
        AutoModelForCausalLM.from_pretrained(model, dtype=d)(ids).logits.double().log_softmax(-1)
        for d in (torch.float32, getattr(torch, dtype))
    )
    return float(kl_div(coarse, fine, log_target=True, reduction="sum")) / ids.numel()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_what_half_precision_adds_is_the_models_own_rounding(real_data, dtype):
    # Both passes, clean and changed, are rounded at every block: no readout takes that away again.
    added = 2 * _rounding(real_data.model, real_data.heldout, dtype)
    assert 0 < added < 2e-3
    expected, found = _both(real_data, 1, dtype)
    assert found["sae_norm"] == pytest.approx(expected["sae_norm"], abs=added)
    assert found["eps_random"] == pytest.approx(expected["eps_random"], rel=0.02)
