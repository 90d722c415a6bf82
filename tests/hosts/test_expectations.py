"""A hook's meaning is identified in the plain model, and other activations are not taken for it."""

from functools import cache
from typing import Any

import pytest
import torch
from families import make_model

from hosts import cells
from hosts.cells import Outcome, Trial
from hosts.expectations import Wrong, expected
from hosts.reference import Place, normalised
from hosts.tiny_models import tiny_model
from saebench.subjects.hooks import find_site

NORMS = {
    "gpt2": ("transformer.h.1.ln_1", "transformer.h.1.ln_2"),
    "llama": ("model.layers.1.input_layernorm", "model.layers.1.post_attention_layernorm"),
    "gpt_neox": ("gpt_neox.layers.1.input_layernorm", "gpt_neox.layers.1.post_attention_layernorm"),
}


@cache
def _trial(family: str) -> Trial:
    return Trial.of(family, make_model(family))


def _normalised(family: str, norm: str) -> torch.Tensor:
    """Return a norm's input as its family normalises it."""
    centred, plain = normalised(_trial(family).plain.clean.values[Place(norm, is_input=True)])
    return plain if family == "llama" else centred


@pytest.mark.parametrize("family", NORMS)
@pytest.mark.parametrize("which", [0, 1])
def test_a_norms_own_input_is_written_behind_its_division(family, which):
    path = NORMS[family][which]
    x = _normalised(family, path)
    plain = _trial(family).plain
    write = expected(_trial(family).block(1), f"ln{which + 1}.hook_normalized", x)
    assert set(write(x)) == {Place(path)}
    assert torch.allclose(plain.run(write(x)).logits, plain.clean.logits, atol=1e-3)


@pytest.mark.parametrize(("family", "which"), [("gpt2", 0), ("llama", 1)])
def test_the_other_norms_input_is_refused(family, which):
    x = _normalised(family, NORMS[family][which])
    with pytest.raises(Wrong, match="it is not the input of ln"):
        expected(_trial(family).block(1), f"ln{2 - which}.hook_normalized", x)


def test_a_layer_norms_input_that_is_not_centred_is_refused():
    _, x = normalised(_trial("gpt2").plain.clean.values[Place(NORMS["gpt2"][0], is_input=True)])
    with pytest.raises(Wrong, match="it is not the input of ln1"):
        expected(_trial("gpt2").block(1), "ln1.hook_normalized", x)


def _mlp_in_at(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    def find(host: Any, hook: str, **options: Any) -> Any:
        if hook == "blocks.1.hook_mlp_in":
            return find_site(host, path, module_path=True)
        return find_site(host, hook, **options)

    monkeypatch.setattr(cells, "find_site", find)


def _mlp_in(family: str, model: Any) -> tuple[Outcome, str]:
    cell = cells.tried(Trial.of(family, model), "hook_mlp_in", 1)
    return cell.outcome, cell.text.split(":")[0]


@pytest.mark.parametrize("family", NORMS)
def test_what_the_mlps_norm_reads_is_the_mlps_input(family, monkeypatch):
    _mlp_in_at(monkeypatch, f"{NORMS[family][1]}.input")
    assert _mlp_in(family, make_model(family)) == (Outcome.SUPPORTED, "")


def test_a_norm_that_the_attention_reads_too_is_not_the_mlps_input(monkeypatch):
    _mlp_in_at(monkeypatch, "model.layers.1.input_layernorm.input")
    assert _mlp_in("phi", tiny_model("phi")) == (Outcome.SILENT, "zero")


def test_the_attentions_input_is_not_the_mlps(monkeypatch):
    _mlp_in_at(monkeypatch, f"{NORMS['llama'][0]}.input")
    assert _mlp_in("llama", make_model("llama")) == (Outcome.SILENT, "value")


@pytest.mark.parametrize(("family", "sequential"), [("gpt2", True), ("gpt_neox", False)])
def test_a_sequential_block_is_told_from_a_parallel_one(family, sequential):
    assert _trial(family).block(1).is_sequential is sequential


def test_there_is_no_middle_of_the_stream_in_a_parallel_block():
    block = _trial("gpt_neox").block(1)
    assert block.attn is not None
    with pytest.raises(Wrong, match="does not read what the attention adds"):
        expected(block, "hook_resid_mid", block.pre + block.attn)


def test_a_module_of_the_attention_is_not_the_mlps():
    block = _trial("llama").block(1)
    x = block.value(Place("model.layers.1.self_attn.o_proj", is_input=True))
    with pytest.raises(Wrong, match="moves the attention's output"):
        expected(block, "mlp.hook_post", x)


def test_a_module_of_the_mlp_is_not_the_attentions():
    block = _trial("llama").block(1)
    x = block.value(Place("model.layers.1.mlp.down_proj", is_input=True))
    with pytest.raises(Wrong, match="the attention's output is still made"):
        expected(block, "attn.hook_z", x)


def test_the_gates_partner_is_not_what_the_activation_function_reads():
    block = _trial("llama").block(1)
    x = block.value(Place("model.layers.1.mlp.up_proj"))
    with pytest.raises(Wrong, match="reads something else"):
        expected(block, "mlp.hook_pre", x)
