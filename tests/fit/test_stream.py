"""Streamed activations against the plain model's hidden states."""

from itertools import islice

import pytest
import torch
from families import WIDTH, make_host

from saebench.fit.stream import START, ActivationStream, Place
from saebench.subjects.hooks import find_site

LAYER, CONTEXT, ROWS, SPECIAL = 1, 6, 8, 5
BATCH, POOL = 4, 18  # tokens; a pool is three rows


class Rows:
    """Eight rows of random tokens, one of them special, again and again."""

    context, special_ids = CONTEXT, frozenset({SPECIAL})

    def __init__(self):
        generator = torch.Generator().manual_seed(3)
        self.ids = torch.randint(6, 90, (ROWS, CONTEXT), generator=generator)
        self.ids[2, 4] = SPECIAL

    def once(self):
        yield from self.ids.tolist()

    def endless(self):
        while True:
            yield from self.once()


@pytest.fixture(scope="module")
def host():
    return make_host("llama")


def stream(host, *, seed=0, batch_tokens=BATCH, pool_tokens: int | None = POOL):
    site = find_site(host, f"blocks.{LAYER}.hook_resid_pre")
    return ActivationStream(
        host, site, Rows(), batch_tokens=batch_tokens, seed=seed, pool_tokens=pool_tokens
    )


@pytest.fixture(scope="module")
def expected(host):
    """The plain model's activations of one pass: position 0 and special tokens left out."""
    with torch.no_grad():
        states = host.model(input_ids=Rows().ids, output_hidden_states=True).hidden_states
    counted = Rows().ids.ne(SPECIAL)
    counted[:, 0] = False
    return states[LAYER][counted]


def test_once_gives_each_activation_of_a_pass_in_order(host, expected):
    activations = torch.cat(list(stream(host).once(10**6)))
    assert activations.shape == (ROWS * (CONTEXT - 1) - 1, WIDTH)
    assert torch.allclose(activations, expected, atol=1e-5)


def test_once_takes_as_many_rows_as_it_needs(host):
    assert sum(len(part) for part in stream(host).once(5)) == CONTEXT - 1


def test_first_gives_the_first_activations(host, expected):
    assert torch.allclose(stream(host).first(7), expected[:7], atol=1e-5)


def test_first_is_one_pass_at_most(host, expected):
    activations = stream(host, pool_tokens=10**6).first(10**6)
    assert torch.allclose(activations, expected, atol=1e-5)


def test_the_batches_of_a_pool_are_its_activations_each_once_and_shuffled(host, expected):
    batches = []
    for batch, place in stream(host).batches():
        batches.append(batch)
        if place.pool == 1:
            break
    pool = expected[: 3 * (CONTEXT - 1) - 1]
    activations = torch.cat(batches)
    assert torch.allclose(_sorted(activations), _sorted(pool), atol=1e-5)
    assert not torch.allclose(activations, pool, atol=1e-3)
    assert {len(batch) for batch in batches} <= {BATCH, BATCH + 1}


def _sorted(rows):
    return rows[rows[:, 0].argsort()]


@pytest.mark.parametrize("after", range(1, 12))
def test_going_on_from_a_place_gives_the_batches_that_followed(host, after):
    every = list(islice(stream(host).batches(), 14))
    place = every[after - 1][1]
    rest = list(islice(stream(host).batches(place), 14 - after))
    for (batch, here), (other, there) in zip(every[after:], rest, strict=True):
        assert here == there
        assert torch.equal(batch, other)


def test_places_count_batches_and_then_pools(host):
    places = [place for _, place in islice(stream(host).batches(), 5)]
    assert places == [Place(0, 1), Place(0, 2), Place(1, 0), Place(1, 1), Place(1, 2)]
    assert Place() == START


def test_the_seed_and_the_pools_number_shuffle(host):
    def order(seed, pool):
        return next(stream(host, seed=seed).batches(Place(pool)))[0]

    assert torch.equal(order(0, 0), order(0, 0))
    assert not torch.equal(order(0, 0), order(1, 0))
    # Eight pools of three rows are three passes: pool 8 holds the rows of pool 0.
    assert not torch.equal(order(0, 0), order(0, 8))


def test_activations_may_be_kept_by_autograd(host):
    batch, _ = next(stream(host).batches())
    weight = torch.ones(WIDTH, requires_grad=True)
    (batch * weight).sum().backward()
    assert weight.grad is not None


def test_a_pool_is_bounded_whatever_the_batch(host):
    for batch_tokens in (1, 1 << 20):
        chosen = stream(host, batch_tokens=batch_tokens, pool_tokens=None)
        assert chosen.pool_rows == (1 << 16) // CONTEXT


def test_a_batch_of_no_token_is_refused(host):
    with pytest.raises(ValueError, match="batch_tokens: expected 1 or more, found 0"):
        stream(host, batch_tokens=0)
