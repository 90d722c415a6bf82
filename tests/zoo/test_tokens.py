from hypothesis import given
from hypothesis import strategies as st

from saebench.zoo.storyteller import TOKEN, count_tokens, words

TEXT = "Tom, who sang: lamp."


def test_a_token_is_a_word_with_its_space_or_a_mark():
    assert TOKEN.findall(TEXT) == ["Tom", ",", " who", " sang", ":", " lamp", "."]


def test_words_leave_spaces_and_marks_out():
    assert words(TEXT) == ["Tom", "who", "sang", "lamp"]


@given(st.lists(st.sampled_from(["Tom", "sang", "lamp"]), min_size=1))
def test_a_sentence_has_its_words_and_a_full_stop(sentence):
    assert count_tokens(" ".join(sentence) + ".") == len(sentence) + 1
