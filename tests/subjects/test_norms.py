"""A norm's output before its weights, as the model's own class computes it."""

import copy
from typing import Any

import pytest
import torch
from families import make_host
from torch import nn

from saebench.errors import HookError
from saebench.subjects.norms import UnitNorm

D = 16


def _shaken(norm: nn.Module) -> nn.Module:
    for parameter in norm.parameters():
        parameter.data.add_(torch.rand(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return norm


def _norms() -> dict[str, Any]:
    from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.olmo.modeling_olmo import OlmoLayerNorm

    return {
        "layer norm": nn.LayerNorm(D), "without bias": nn.LayerNorm(D, bias=False),
        "llama": LlamaRMSNorm(D), "gemma, 1 + weight": Gemma2RMSNorm(D),
        "olmo, no weights": OlmoLayerNorm(D), "torch's rms": nn.RMSNorm(D, eps=1e-6),
    }  # fmt: skip


@pytest.mark.parametrize("name", _norms())
def test_the_unit_is_normalised_and_its_weights_give_the_norm_back(name: str):
    norm = _shaken(_norms()[name])
    x = 5 * torch.randn(3, 4, D, generator=torch.Generator().manual_seed(2)) + 1
    unit = UnitNorm(norm, name, width=D)
    wide = x.double() - (x.double().mean(-1, keepdim=True) if "Layer" in type(norm).__name__ else 0)
    expected = wide / wide.square().mean(-1, keepdim=True).sqrt()
    found = unit.normalised(x)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(unit.rewritten(norm(x), x, found), norm(x))
    other = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    # An input that is normalised already: the norm does nothing to it but weigh it.
    wanted = unit.normalised(1e3 * other)
    torch.testing.assert_close(
        unit.rewritten(norm(x), x, wanted), norm(1e3 * other), rtol=1e-4, atol=1e-4
    )


def test_the_model_keeps_its_weights():
    norm = _shaken(nn.LayerNorm(D))
    before = copy.deepcopy(norm.state_dict())
    UnitNorm(norm, "ln", width=D)
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


@pytest.mark.parametrize("module", [nn.Linear(D, D), nn.Identity(), nn.GroupNorm(2, D), nn.ReLU()])
def test_what_is_no_norm_is_refused(module: nn.Module):
    with pytest.raises(HookError, match="is not a norm"):
        UnitNorm(module, "model.layers.0.mlp", width=D)


def test_a_host_has_one_unit_norm_for_each_path():
    host = make_host("llama")
    path = "model.layers.1.input_layernorm"
    assert host.unit_norm(path) is host.unit_norm(path)
