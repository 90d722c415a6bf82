"""Streamed rows: which row comes when, from any position and seed."""

from itertools import islice

import torch

from saebench.fit.stream import Place, RowStream


class Rows:
    """Ten rows of one token, again and again."""

    def endless(self):
        while True:
            yield from ([n] for n in range(10))


def _stream(seed):
    return RowStream(Rows(), batch_rows=2, seed=seed, pool_rows=5)


def _given(seed, batches, start=None):
    start = Place() if start is None else start
    given = islice(_stream(seed).batches(start), batches)
    return torch.cat([batch.flatten() for batch, _ in given]).tolist()


def test_every_row_of_a_pass_is_given_once():
    assert sorted(_given(0, 4)) == list(range(10))


def test_another_seed_gives_another_order():
    orders = {tuple(_given(seed, 4)) for seed in range(8)}
    assert len(orders) > 4


def test_it_goes_on_from_any_place_as_if_it_had_not_stopped():
    places = [place for _, place in islice(_stream(3).batches(), 6)]
    every = _given(3, 7)
    for number, place in enumerate(places, start=1):
        rest = _given(3, 7 - number, place)
        assert every[-len(rest) :] == rest
