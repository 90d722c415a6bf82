"""The shipped zoo, loaded once."""

import pytest
from transformers import GPT2LMHeadModel

from saebench.zoo import corpus
from saebench.zoo import shelf as zoo
from saebench.zoo.recipe import MODEL, SAES
from tools.zoo import activations
from tools.zoo.tokenizer import build_tokenizer

N_ACTIVATIONS = 4000


@pytest.fixture(scope="session")
def tokenizer():
    return build_tokenizer(max_length=MODEL.n_positions)


@pytest.fixture(scope="session")
def model():
    return GPT2LMHeadModel.from_pretrained(zoo.model_path()).eval()


@pytest.fixture(scope="session")
def heldout(model, tokenizer):
    """Activations of held-out stories, by hook name."""
    return activations.collect(
        model,
        tokenizer,
        hook_names=sorted({recipe.hook_name for recipe in SAES}),
        corpus_seed=corpus.split_seed("validation"),
        n=N_ACTIVATIONS,
    )
