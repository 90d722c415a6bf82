from dataclasses import replace

import pytest
import torch
from sae_lens import SAE

from saebench.zoo import shelf as zoo
from saebench.zoo.recipe import MODEL, PUBLISHED_L0_SHARE, SAES, SaeRecipe, SaeTraining
from tools.zoo import saes, scores

TINY = SaeTraining(d_sae=32, n_activations=512, batch_size=128, steps=8, decay_steps=2)


@pytest.fixture(scope="module")
def points():
    return torch.randn(512, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("recipe", SAES, ids=lambda recipe: recipe.name)
def test_every_sae_loads_through_sae_lens_with_full_metadata(recipe):
    sae = SAE.load_from_disk(zoo.sae_path(recipe.name))
    metadata = sae.cfg.metadata
    assert (metadata.hook_name, metadata.context_size) == (recipe.hook_name, 64)
    assert metadata.prepend_bos is True
    assert None not in (metadata.model_name, metadata.dataset_path, metadata.model_class_name)
    assert sae.cfg.normalize_activations == "none"
    assert all(p.dtype == torch.float32 for p in sae.parameters())


@pytest.mark.parametrize("recipe", SAES, ids=lambda recipe: recipe.name)
def test_every_sae_explains_variance_sparsely(recipe, heldout):
    found = scores.score_sae(saes.load_sae(zoo.sae_path(recipe.name)), heldout[recipe.hook_name])
    assert 0.3 < found.explained_variance < 1
    if recipe.name != "l2-shrunken":
        assert found.explained_variance > 0.8
    low, high = PUBLISHED_L0_SHARE
    share = found.l0 / MODEL.d_model
    assert share > 3 * high if recipe.name == "l2-dense" else low < share < high


def test_the_shrunken_sae_is_plainly_shrunken(heldout):
    activations = heldout["blocks.2.hook_resid_pre"]
    sae = saes.load_sae(zoo.sae_path("l2-shrunken"))
    with torch.no_grad():
        ratio = sae(activations).norm(dim=-1) / activations.norm(dim=-1)
    error = ratio.std() / len(ratio) ** 0.5
    assert ratio.mean() + 2 * error < 0.8


def test_batchtopk_is_shipped_as_jumprelu():
    assert SAE.load_from_disk(zoo.sae_path("l2-batchtopk")).cfg.architecture() == "jumprelu"


@pytest.mark.parametrize("recipe", SAES[-5:], ids=lambda recipe: recipe.name)
def test_training_twice_gives_the_same_sae(recipe, points):
    first, second = (saes.train_sae(recipe, points, seed=3, training=TINY) for _ in "ab")
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_training_leaves_the_global_generator_alone(points):
    before = torch.random.get_rng_state()
    saes.train_sae(SAES[0], points, seed=3, training=TINY)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_decoders_bias_starts_at_the_mean_of_the_activations(points):
    slow = replace(TINY, learning_rate=1e-9)
    trained = saes.train_sae(SAES[0], points + 5, seed=3, training=slow)
    torch.testing.assert_close(trained.b_dec.detach(), (points + 5).mean(0))


def test_an_attention_sae_is_saved_for_activations_split_by_head(points, tmp_path):
    recipe = SaeRecipe("z", "blocks.0.attn.hook_z", "standard", {"l1_coefficient": 0.1})
    trained = saes.train_sae(recipe, points, seed=0, training=TINY)
    saes.save_sae(trained, tmp_path)
    by_head = SAE.load_from_disk(tmp_path)(points.unflatten(-1, (4, 4))).flatten(-2)
    torch.testing.assert_close(by_head, saes.load_sae(tmp_path)(points))
