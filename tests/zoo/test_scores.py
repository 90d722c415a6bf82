import pytest
from scipy.stats import binomtest

from saebench.zoo import corpus
from saebench.zoo.corpus import ClozePrompt
from tools.zoo.scores import best_accuracy, fit_ngrams

N_PROMPTS = 400


@pytest.fixture(scope="module")
def ngrams():
    seed = corpus.split_seed("train")
    return fit_ngrams(corpus.document(seed, index) for index in range(4000))


def test_each_order_predicts_the_most_frequent_follower():
    model = fit_ngrams(["a b c", "a b c", "d b e", "d b e", "d b e"])
    assert model.predict("x", order=1) == "b"
    assert model.predict("a b", order=2) == "e"
    assert model.predict("a b", order=3) == "c"


def test_an_unseen_context_predicts_nothing():
    assert fit_ngrams(["a b"]).predict("q", order=2) is None


def test_options_restrict_the_prediction():
    model = fit_ngrams(["a b", "a b", "a c"])
    assert model.predict("a", order=2, options=("c", "d")) == "c"


def test_best_accuracy_is_that_of_the_best_order():
    prompts = [ClozePrompt("a b", "c"), ClozePrompt("d b", "e")]
    assert best_accuracy(fit_ngrams(["a b c", "d b e"]), prompts) == 1.0


@pytest.mark.parametrize("kind", corpus.KINDS)
def test_ngrams_get_at_most_a_fifth_of_the_cloze_prompts(ngrams, kind):
    prompts = corpus.prompts(2, N_PROMPTS, kind=kind)
    hits = round(best_accuracy(ngrams, prompts) * N_PROMPTS)
    assert binomtest(hits, N_PROMPTS).proportion_ci().high <= 0.20
