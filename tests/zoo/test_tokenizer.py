import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from saebench.zoo import corpus, lexicon
from saebench.zoo import shelf as zoo
from saebench.zoo import storyteller as tokens
from tools.zoo.tokenizer import BOS, BOS_ID, UNKNOWN, build_tokenizer

TOKENIZER = build_tokenizer(max_length=512)


@given(seed=st.integers(0, 2**32), index=st.integers(0, 2**32))
def test_decoding_gives_back_every_story(seed, index):
    text = corpus.document(seed, index)
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert TOKENIZER.decode(ids) == text
    assert len(ids) == tokens.count_tokens(text)
    assert TOKENIZER.convert_tokens_to_ids(UNKNOWN) not in ids


def test_the_vocabulary_has_a_bos_and_600_to_1500_tokens():
    assert TOKENIZER.bos_token_id == BOS_ID == TOKENIZER.convert_tokens_to_ids(BOS)
    assert 600 <= len(TOKENIZER) <= 1500


@pytest.mark.parametrize("relation", lexicon.RELATIONS, ids=lambda relation: relation.name)
def test_every_answer_is_one_token(relation):
    for value in relation.values:
        assert len(TOKENIZER(f" {value}", add_special_tokens=False)["input_ids"]) == 1


def test_the_saved_tokenizer_is_the_built_one():
    saved = AutoTokenizer.from_pretrained(zoo.model_path())
    text = corpus.document(9, 9)
    assert saved.get_vocab() == TOKENIZER.get_vocab()
    assert (
        saved(text, truncation=True)["input_ids"]
        == TOKENIZER(text, truncation=True)["input_ids"][: saved.model_max_length]
    )


def test_no_special_token_is_added():
    assert BOS_ID not in TOKENIZER("Tom felt happy.")["input_ids"]
