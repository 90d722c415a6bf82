import pytest

from saebench.zoo import corpus
from saebench.zoo import storyteller as tokens

PROMPTS = {kind: corpus.prompts(0, 300, kind=kind) for kind in corpus.KINDS}


@pytest.mark.parametrize("kind", corpus.KINDS)
def test_prompts_are_a_pure_function_of_the_seed(kind):
    assert corpus.prompts(0, 20, kind=kind) == PROMPTS[kind][:20]
    assert corpus.prompts(1, 20, kind=kind) != PROMPTS[kind][:20]


@pytest.mark.parametrize("kind", corpus.KINDS)
def test_the_answer_occurs_earlier_in_the_prompt(kind):
    assert all(p.answer in tokens.words(p.prompt) for p in PROMPTS[kind])


@pytest.mark.parametrize("kind", corpus.KINDS)
def test_prompts_do_not_end_in_a_space(kind):
    assert all(p.prompt == p.prompt.strip() for p in PROMPTS[kind])


def test_lambada_prompts_fit_the_training_context_and_have_no_options():
    assert all(tokens.count_tokens(p.prompt) < 63 for p in PROMPTS["lambada"])
    assert all(p.options is None for p in PROMPTS["lambada"])


def test_cbt_prompts_go_beyond_the_training_context_but_fit_the_model():
    assert all(64 < tokens.count_tokens(p.prompt) < 255 for p in PROMPTS["cbt"])


def test_cbt_prompts_have_ten_different_options_with_the_answer_among_them():
    for prompt in PROMPTS["cbt"]:
        assert prompt.options is not None
        assert len(set(prompt.options)) == corpus.N_OPTIONS
        assert prompt.answer in prompt.options


def test_at_least_two_wrong_options_occur_in_the_prompt():
    for prompt in PROMPTS["cbt"]:
        wrong = set(prompt.options or ()) - {prompt.answer}
        assert len(wrong & set(tokens.words(prompt.prompt))) >= corpus.MIN_RIVALS


def test_the_answer_is_at_no_favourite_place_among_the_options():
    places = [(p.options or ()).index(p.answer) for p in PROMPTS["cbt"]]
    assert set(places) == set(range(corpus.N_OPTIONS))
