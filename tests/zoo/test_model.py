import pytest
import torch
from scipy.stats import binomtest
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel

from saebench.zoo import corpus
from saebench.zoo import shelf as zoo
from tools.zoo import scores
from tools.zoo.model import new_model, train_model

N_PROMPTS = 300


def test_the_shipped_model_loads_as_any_hugging_face_model():
    model = AutoModelForCausalLM.from_pretrained(zoo.model_path())
    tokenizer = AutoTokenizer.from_pretrained(zoo.model_path())
    assert isinstance(model, GPT2LMHeadModel)
    assert (model.config.n_layer, model.config.n_positions) == (4, 256)
    assert model.config.vocab_size == len(tokenizer)
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("kind", corpus.KINDS)
def test_the_model_gets_more_than_60_percent_of_the_cloze_prompts(model, tokenizer, kind):
    prompts = corpus.prompts(3, N_PROMPTS, kind=kind)
    hits = scores.cloze_hits(model, tokenizer, prompts)
    assert binomtest(sum(hits), N_PROMPTS).proportion_ci().low >= 0.60


def test_cloze_hits_do_not_depend_on_the_batch_size(model, tokenizer):
    prompts = corpus.prompts(4, 20)
    one_by_one = scores.cloze_hits(model, tokenizer, prompts, batch_size=1)
    assert scores.cloze_hits(model, tokenizer, prompts, batch_size=20) == one_by_one


def test_the_heldout_loss_is_far_below_that_of_an_untrained_model(model, tokenizer):
    seed = corpus.split_seed("validation")
    untrained = scores.clean_ce(new_model(tokenizer, seed=0), tokenizer, corpus_seed=seed, n=16)
    assert scores.clean_ce(model, tokenizer, corpus_seed=seed, n=16) < untrained - 4


def test_a_new_model_depends_on_its_seed_alone(tokenizer):
    before = torch.random.get_rng_state()
    first, second = (new_model(tokenizer, seed=5).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_training_twice_gives_the_same_losses(tokenizer):
    runs = [train_model(new_model(tokenizer, seed=1), tokenizer, seed=1, steps=2) for _ in "ab"]
    assert runs[0] == pytest.approx(runs[1], abs=1e-4)
