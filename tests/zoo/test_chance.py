from hypothesis import given
from hypothesis import strategies as st

from saebench.zoo.storyteller import draw, generator, pick


def test_each_text_has_its_own_chance():
    firsts = {generator(seed, index).random() for seed in range(20) for index in range(20)}
    assert len(firsts) == 400


def test_the_stream_is_the_same_on_every_python():
    assert [pick(generator(0, index), "abcdef") for index in range(8)] == list("badeafbe")


@given(seed=st.integers(0), items=st.lists(st.integers(), min_size=1, unique=True))
def test_drawing_all_items_is_a_permutation(seed, items):
    assert sorted(draw(generator(seed, 0), items, len(items))) == sorted(items)


@given(seed=st.integers(0), items=st.lists(st.integers(), min_size=1))
def test_pick_returns_one_of_the_items(seed, items):
    assert pick(generator(seed, 0), items) in items
