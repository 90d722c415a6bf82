import pytest
import torch

from saebench.zoo.recipe import SAE_CONTEXT, SAES
from tools.zoo import activations, batches

HOOKS = sorted({recipe.hook_name for recipe in SAES})


@pytest.fixture(scope="module")
def ids(tokenizer):
    return batches.pad(batches.story_ids(tokenizer, 1, start=0, n=3, context=40))


def test_resid_pre_is_the_hidden_state_that_hugging_face_reports(model, ids):
    tokens, labels = ids
    with torch.no_grad():
        hidden = model(input_ids=tokens, output_hidden_states=True).hidden_states
    real = labels != batches.IGNORED
    real[:, 0] = False
    for layer in range(4):
        found = activations.activations(model, f"blocks.{layer}.hook_resid_pre", *ids)
        assert torch.equal(found, hidden[layer][real])


def test_hook_z_goes_through_c_proj_to_the_attention_output(model, ids):
    z = activations.activations(model, "blocks.1.attn.hook_z", *ids)
    seen = []
    attention = model.transformer.h[1].attn
    handle = attention.register_forward_hook(lambda *call: seen.append(call[2][0]))
    with torch.no_grad():
        model(input_ids=ids[0])
        handle.remove()
        expected = seen[0][ids[1] != batches.IGNORED]
        projected = attention.c_proj(z)
    kept = torch.cat([row[1:] for row in expected.split((ids[1] >= 0).sum(1).tolist())])
    torch.testing.assert_close(projected, kept)


def test_collecting_at_several_hooks_gives_the_first_rows_of_each(model, tokenizer):
    found = activations.collect(
        model, tokenizer, hook_names=HOOKS, corpus_seed=1, n=150, batch_sequences=2
    )
    stories = [
        batches.pad(batches.story_ids(tokenizer, 1, start=start, n=2, context=SAE_CONTEXT))
        for start in (0, 2, 4, 6)
    ]
    for hook_name in HOOKS:
        rows = [activations.activations(model, hook_name, *each) for each in stories]
        assert torch.equal(found[hook_name], torch.cat(rows)[:150])


@pytest.mark.parametrize("hook_name", HOOKS)
def test_putting_back_what_was_there_changes_nothing(model, ids, hook_name):
    with torch.no_grad():
        clean = model(input_ids=ids[0]).logits
        with activations.edited(model, hook_name, torch.clone):
            again = model(input_ids=ids[0]).logits
    assert torch.equal(clean, again)


@pytest.mark.parametrize("hook_name", HOOKS)
def test_an_edit_acts_only_inside_its_context(model, ids, hook_name):
    with torch.no_grad():
        clean = model(input_ids=ids[0]).logits
        with activations.edited(model, hook_name, torch.zeros_like):
            changed = model(input_ids=ids[0]).logits
        after = model(input_ids=ids[0]).logits
    assert not torch.allclose(clean, changed)
    assert torch.equal(clean, after)


def test_an_unknown_hook_is_an_error(model, ids):
    with pytest.raises(ValueError, match="hook_q"):
        activations.activations(model, "blocks.0.attn.hook_q", *ids)
