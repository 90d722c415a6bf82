"""A site is tried before it is used, and each trial can fail."""

from typing import Any

import pytest
import torch
from families import VOCAB, make_host, make_model, random_ids
from torch import Tensor, nn

from saebench.errors import HookError, HostError
from saebench.subjects.hooks import find_site
from saebench.subjects.host import Host
from saebench.substitution.passes import Passes

PRE = "blocks.1.hook_resid_pre"


class _Tupled(nn.Module):
    """A block that returns its hidden states in a tuple, with something beside them."""

    def __init__(self, inner: nn.Module, beside: Any) -> None:
        super().__init__()
        self.inner, self.beside = inner, beside

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> tuple[Any, ...]:
        made = self.inner(hidden_states, **kwargs)
        return made, 0.1 * hidden_states if self.beside == "tensor" else self.beside


def _with_tuples(beside: Any, *, uses: bool = False) -> Host:
    """Return a host whose model unpacks what its blocks return."""
    model = make_model("llama")
    layers = [_Tupled(layer, beside) for layer in model.model.layers]
    model.model.layers = nn.ModuleList(layers)
    for layer in layers:
        layer.attention_type = "full_attention"
    inner = model.model.forward

    def forward(**kwargs: Any) -> Any:
        extra: list[Tensor] = []
        handles = [layer.register_forward_hook(lambda *a: extra.append(a[2])) for layer in layers]
        unpack = [layer.register_forward_hook(lambda *a: a[2][0]) for layer in layers]
        out = inner(**kwargs)
        for handle in (*handles, *unpack):
            handle.remove()
        if uses:
            out.last_hidden_state = out.last_hidden_state + sum(e[1] for e in extra)
        return out

    model.model.forward = forward
    return Host(model, None, name="tupled")


def test_a_hook_that_changes_nothing_is_refused():
    host = make_host("llama")
    layer = host.model.model.layers[1]
    layer.mlp.register_forward_pre_hook(lambda *_: None)
    site = find_site(host, "model.layers.1.mlp.act_fn", module_path=True)
    layer.mlp.forward = lambda x: layer.mlp.down_proj(layer.mlp.up_proj(x)) + 0 * _ran(layer, x)
    with pytest.raises(HookError, match="changes nothing"):
        Passes(host).prove(site, random_ids(3, 9))


def _ran(layer: nn.Module, x: Tensor) -> Tensor:
    layer.mlp.act_fn(layer.mlp.gate_proj(x))
    return torch.zeros(())


def test_a_model_that_gives_other_numbers_each_time_is_refused():
    model = make_model("llama")
    host = Host(model, None, name="random")
    site = find_site(host, PRE)
    model.model.layers[2].register_forward_hook(lambda *a: a[2] + torch.rand(()))
    with pytest.raises(HookError, match="putting the unchanged activation back changes"):
        Passes(host).prove(site, random_ids(3, 9))


def test_a_context_that_the_model_cannot_run_is_an_error_before_anything_is_measured():
    host = make_host("gpt2")
    with pytest.raises(HostError, match="cannot be run on 2 sequences of 65 tokens: IndexError"):
        Passes(host).prove(find_site(host, PRE), random_ids(3, 65))


def test_sequences_that_are_all_alike_prove_nothing_of_what_goes_around_a_site():
    host = make_host("llama")
    same = torch.full((2, 9), 5)
    Passes(host).prove(find_site(host, "blocks.1.hook_mlp_out"), same)
    assert not Passes(host).is_all(find_site(host, "blocks.1.hook_mlp_out"))


@pytest.mark.parametrize("vocabulary", [3, 4, 12, VOCAB])
def test_the_trials_rows_differ_in_every_token(vocabulary: int):
    first, second = make_host("llama", vocab_size=vocabulary).trial_ids
    assert (first != second).all()


def test_the_proof_of_a_runs_tokens_replaces_the_trials():
    host = make_host("llama")
    site, passes = find_site(host, PRE), Passes(make_host("llama"))
    passes = Passes(host)
    assert passes.is_exact(site)
    host.blocks[0].register_forward_hook(lambda *a: a[2] + torch.rand(()))
    passes.prove(site, random_ids(2, 7))
    assert passes.is_exact(site)  # what is handed on is not what the block gives


@pytest.mark.parametrize(("beside", "uses"), [(None, False), ("state", False), ("tensor", False)])
def test_tuples_are_handed_on_as_their_caller_unpacks_them(beside, uses):
    host = _with_tuples(beside, uses=uses)
    site, ids = find_site(host, PRE), random_ids(2, 9)
    passes = Passes(host)
    clean = passes.clean(ids, [site])
    found = passes.resume(clean, site, (-clean.activations[site])[None])[0]
    model = make_model("llama")
    model.model.layers[1].register_forward_pre_hook(
        lambda _, args, kw: ((-args[0], *args[1:]), kw), with_kwargs=True
    )
    with torch.inference_mode():
        expected = model.model(input_ids=ids, use_cache=False)[0]
    assert passes.is_exact(site)
    assert torch.equal(found, expected)


def test_where_the_model_computes_with_what_is_beside_all_blocks_are_run():
    host = _with_tuples("tensor", uses=True)
    assert not Passes(host).is_exact(find_site(host, PRE))


def test_a_module_that_works_in_place_leaves_what_was_read_and_what_is_written():
    model = make_model("llama")
    for layer in model.model.layers:
        layer.mlp.register_forward_hook(lambda *a: a[2].mul_(1))
        layer.post_attention_layernorm.register_forward_pre_hook(lambda *a: (a[1][0].clone(),))
        layer.self_attn.o_proj.register_forward_hook(lambda *a: a[2].add_(1))
    host = Host(model, None, name="in place")
    site = find_site(host, "model.layers.1.self_attn.o_proj.input", module_path=True)
    passes, ids = Passes(host), random_ids(2, 9)
    clean = passes.clean(ids, [site])
    before, changed = clean.activations[site].clone(), -clean.activations[site][None]
    given = changed.clone()
    passes.resume(clean, site, changed)
    assert torch.equal(clean.activations[site], before)
    assert torch.equal(changed, given)


def test_where_memory_runs_out_a_shorter_piece_is_proof_enough(monkeypatch):
    host, lengths = make_host("llama"), []
    inner = host.final_hidden

    def little(ids: Tensor) -> Tensor:
        lengths.append(ids.shape[1])
        if ids.shape[1] > 20:
            raise torch.OutOfMemoryError
        return inner(ids)

    site = find_site(host, PRE)
    monkeypatch.setattr(host, "final_hidden", little)
    Passes(host).prove(site, random_ids(2, 64))
    assert sorted(set(lengths)) == [16, 32, 64]
    assert Passes(host).is_exact(site)
