"""The order of hooks in a model, by their names alone."""

import itertools

import pytest
import torch
from families import FAMILIES, host_of

from saebench.subjects.depth import depth
from saebench.subjects.hooks import find_site
from saebench.substitution.passes import Passes

SEQUENTIAL = [family for family in FAMILIES if family != "gpt_neox"]
INSIDE = (
    "hook_resid_pre", "attn.hook_z", "hook_attn_out", "hook_resid_mid", "mlp.hook_post",
    "hook_mlp_out", "hook_resid_post",
)  # fmt: skip


def test_the_order_is_that_in_which_a_model_computes():
    order = [f"blocks.{layer}.{name}" for layer in (0, 1, 10) for name in INSIDE[:-1]]
    depths = [depth(hook) for hook in order]
    assert depths == sorted(depths)
    assert len(set(depths)) == len(order)


@pytest.mark.parametrize("family", SEQUENTIAL)
@pytest.mark.parametrize("pair", list(itertools.pairwise(INSIDE)), ids="-".join)
def test_what_is_substituted_at_one_place_reaches_the_next(family, pair):
    host = host_of(family)
    passes, ids = Passes(host), torch.arange(12)[None]
    first, second = (find_site(host, f"blocks.1.{name}") for name in pair)
    clean = passes.clean(ids, [first, second])
    changed = clean.activations[first][None] + 1
    after = passes.resume_keeping(clean, first, changed, [second])
    assert depth(first.hook) < depth(second.hook)
    assert not torch.equal(after.activations[second], clean.activations[second])


@pytest.mark.parametrize(
    ("hook", "same"),
    [
        ("blocks.3.hook_resid_post", "blocks.4.hook_resid_pre"),
        ("model.layers.3", "blocks.3.hook_resid_post"),
        ("transformer.h.3.mlp", "blocks.3.hook_mlp_out"),
        ("model.layers.3.self_attn", "blocks.3.hook_attn_out"),
    ],
)
def test_two_names_of_one_place_are_of_one_depth(hook, same):
    assert depth(hook) == depth(same)


@pytest.mark.parametrize(
    "hook",
    ["", "embed", "blocks.1.hook_unheard_of", "model.layers.2.post_attention_layernorm",
     "model.layers.2.mlp.experts.3.up", "ln_final.hook_normalized", "model.layers", "1"],
)  # fmt: skip
def test_what_cannot_be_told_is_none(hook):
    assert depth(hook) is None


def test_every_hook_that_can_be_substituted_has_a_depth():
    from saebench.subjects.hooks import FINDERS as known

    paths = [f"blocks.2.{name}" for name in known]
    assert len(paths) > 10
    assert all(depth(path) is not None for path in paths)
