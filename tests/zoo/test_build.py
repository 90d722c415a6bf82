import shutil
from dataclasses import replace
from functools import partial

import pytest

from saebench.subjects.references import find_subjects
from saebench.zoo import recipe
from saebench.zoo import shelf as zoo
from tools.zoo import build, card


@pytest.fixture(scope="module")
def stored():
    return card.read_card(zoo.WEIGHTS)


@pytest.fixture
def tampered(tmp_path):
    shutil.copytree(zoo.WEIGHTS, tmp_path / "zoo")
    return tmp_path / "zoo"


def test_the_shipped_files_have_the_hashes_of_the_card(stored):
    assert card.file_hashes(zoo.WEIGHTS) == stored.files


def test_the_card_is_of_this_recipe(stored):
    assert stored.recipe_sha256 == recipe.recipe_hash(seed=stored.seed)


def test_the_recipe_hash_depends_on_the_seed():
    assert recipe.recipe_hash(seed=0) != recipe.recipe_hash(seed=1)


def test_the_readable_card_is_made_from_the_other(stored):
    assert (zoo.WEIGHTS / card.CARD_TEXT).read_text() == card.render(stored)


def test_the_card_scores_every_sae(stored):
    assert set(stored.saes) == set(zoo.names())


def test_check_trains_a_short_stretch_again_and_agrees():
    assert build.main(["--check"]) == 0


def test_check_fails_on_a_changed_file_and_names_it(tampered, caplog):
    (tampered / "model" / "config.json").write_text("{}")
    assert build.main(["--check", "--out", str(tampered)]) == 1
    assert "model/config.json" in caplog.text


def test_check_fails_on_a_missing_file_and_names_it(tampered, caplog):
    (tampered / "saes" / "l2-topk" / "cfg.json").unlink()
    assert build.main(["--check", "--out", str(tampered)]) == 1
    assert "saes/l2-topk/cfg.json" in caplog.text


def test_check_fails_when_training_gives_other_losses(tampered, caplog):
    text = (tampered / card.CARD_JSON).read_text()
    first = card.read_card(tampered).check.model_losses[0]
    (tampered / card.CARD_JSON).write_text(text.replace(repr(first), repr(first + 1)))
    assert build.main(["--check", "--out", str(tampered)]) == 1
    assert "model step 0" in caplog.text


@pytest.fixture
def tiny_recipe(monkeypatch):
    """The whole recipe with a handful of steps: every stage runs, nothing is learned."""
    training = replace(build.SAE_TRAINING, n_activations=2048, batch_size=512, steps=4)
    monkeypatch.setattr(build, "SAE_TRAINING", training)
    monkeypatch.setattr(
        build, "train_model", partial(build.train_model, steps=build.CHECK_MODEL_STEPS)
    )
    monkeypatch.setattr(build, "train_sae", partial(build.train_sae, training=training))
    monkeypatch.setattr(build, "CHECK_SAE_TRAINING", training)
    sizes = {"N_PROMPTS": 8, "N_HELDOUT_STORIES": 8, "N_HELDOUT_ACTIVATIONS": 2000}
    for name, size in (sizes | {"N_NGRAM_STORIES": 50}).items():
        monkeypatch.setattr(build, name, size)


def test_training_the_saes_again_leaves_the_model_as_it_is(tiny_recipe, tampered, stored):
    assert build.main(["--saes-only", "--out", str(tampered)]) == 0
    again = card.read_card(tampered)
    assert again.files == card.file_hashes(tampered)
    changed = {path for path in again.files if again.files[path] != stored.files[path]}
    assert {f"saes/{name}/sae_weights.safetensors" for name in zoo.names()} <= changed
    assert all(path.startswith("saes/") for path in changed)
    assert (again.cloze, again.heldout_ce) == (stored.cloze, stored.heldout_ce)
    assert not again.gate


def test_every_stage_of_the_build_gives_a_zoo_that_the_gate_can_load(tiny_recipe, tmp_path):
    made = build.build(tmp_path)
    assert set(made.saes) == set(zoo.names())
    assert card.file_hashes(tmp_path) == made.files
    assert card.read_card(tmp_path) == made
    directories = [str(tmp_path / "saes" / name) for name in zoo.names()]
    assert len(find_subjects(directories)) == len(directories)
