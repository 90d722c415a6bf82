"""The reference is right about blocks of known form, and imports nothing of saebench."""

from pathlib import Path

import pytest
import torch
from families import make_model
from torch import nn

from hosts import reference
from hosts.reference import Place, Plain, additive_form

IDS = torch.arange(16).view(2, 8) + 3


@pytest.fixture(scope="module")
def plain() -> Plain:
    return Plain(make_model("gpt2"), IDS)


def test_it_imports_nothing_of_saebench():
    text = Path(reference.__file__).read_text(encoding="utf-8")
    imports = [line for line in text.splitlines() if line.startswith(("import ", "from "))]
    assert not any("saebench" in line for line in imports)


def test_it_runs_in_float64_and_gives_the_models_logits(plain):
    logits = make_model("gpt2")(input_ids=IDS, use_cache=False).logits
    assert plain.dtype == torch.float64
    assert torch.allclose(plain.clean.logits.float(), logits, atol=1e-4)


def test_an_output_put_back_changes_nothing_and_another_one_does(plain):
    place = Place("transformer.h.1.attn")
    same = plain.run({place: lambda value: value}).logits
    none = plain.run({place: torch.zeros_like}).logits
    assert torch.equal(same, plain.clean.logits)
    assert not torch.allclose(none, same, atol=0.1)


def test_an_input_changed_is_seen_by_the_module_alone(plain):
    block = "transformer.h.1"
    changes = {Place(f"{block}.mlp", is_input=True): torch.zeros_like}
    found = plain.run(changes, record=[f"{block}.attn", f"{block}.mlp"]).values
    bias = plain.model.get_submodule(f"{block}.mlp")(torch.zeros(1, 1, 32).double())
    assert torch.equal(found[Place(f"{block}.attn")], plain.clean.values[Place(f"{block}.attn")])
    assert torch.allclose(found[Place(f"{block}.mlp")], bias.expand(2, 8, 32))


def test_a_sum_is_told_from_a_post_norm_block_and_from_neither():
    pre, attn, mlp = torch.randn(3, 2, 8, 16, dtype=torch.float64)
    norms = {"a": nn.LayerNorm(16).double(), "b": nn.LayerNorm(16).double()}
    for norm in norms.values():
        nn.init.normal_(norm.weight)
    after = norms["b"](norms["a"](pre + attn) + mlp).detach()
    assert additive_form(pre, pre + attn + mlp, attn, mlp, norms) == "sum"
    assert additive_form(pre, after, attn, mlp, norms) == "post-LN"
    assert additive_form(pre, pre + attn + 0.6 * mlp, attn, mlp, norms) is None


def test_a_scaled_sum_is_told_from_one_whose_parts_are_scaled_apart():
    pre, attn, mlp, other = torch.randn(4, 2, 8, 16, dtype=torch.float64)
    stream = pre + attn + mlp
    assert reference.is_scaled_sum(0.7 * stream + other, stream, other)
    assert not reference.is_scaled_sum(pre + 0.6 * attn + 0.6 * mlp, stream, attn)
    assert not reference.is_scaled_sum(other, stream, other)


def test_a_norms_weights_are_found_and_another_functions_are_not():
    x = torch.randn(2, 8, 16, dtype=torch.float64)
    weight, bias = torch.randn(2, 16, dtype=torch.float64)
    found = reference.affine(x, weight * x + bias)
    assert found is not None
    assert torch.allclose(found[0], weight)
    assert torch.allclose(found[1], bias)
    assert reference.affine(x, x.relu()) is None


def test_values_of_flattened_and_of_turned_models_are_read_by_position():
    value = torch.randn(2, 8, 5)
    for shaped in (value, value.flatten(0, 1), value.transpose(0, 1)):
        found = reference._by_position(shaped, IDS)
        assert found is not None
        assert torch.equal(found, value)
        assert torch.equal(reference._as_before(value, shaped, IDS), shaped)
    assert reference._by_position(torch.randn(4, 2, 8, 5), IDS) is None
