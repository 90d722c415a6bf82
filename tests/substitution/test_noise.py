"""Counter-based noise: the published generator, normal, and a pure function of its place."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from saebench.substitution.noise import NoiseSource, below, philox

FULL = 0xFFFFFFFF
# kat_vectors of Random123 1.14, philox4x32 with 10 rounds: counter, key, words.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((FULL,) * 4, (FULL,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def _normal(source: NoiseSource, places: list[tuple[int, int]], **options: int) -> torch.Tensor:
    sequence, position = torch.tensor(places).T
    return source.normal(sequence, position, **options)


def _grid(sequences: int, positions: int) -> list[tuple[int, int]]:
    return [(s, t) for s in range(sequences) for t in range(positions)]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_philox_gives_random123s_known_answers(counter, key, words):
    tensors = tuple(torch.tensor([c]) for c in counter)
    assert tuple(int(w) for w in philox(tensors, key=key)) == words


def test_normals_are_standard_normal():
    drawn = _normal(NoiseSource(0, "eps_random"), _grid(20, 50), d=64).flatten().numpy()
    # Fixed noise: the p-value is a constant, and a true normal falls below 1e-3 once in 1000.
    assert stats.kstest(drawn, "norm").pvalue > 1e-3
    assert abs(stats.kurtosis(drawn)) < 5 * (24 / drawn.size) ** 0.5  # five standard errors


def test_components_tokens_and_draws_are_uncorrelated():
    source = NoiseSource(3, "eps_random")
    drawn = torch.cat([_normal(source, _grid(40, 100), d=8, draw=k) for k in (0, 1)], dim=1)
    correlation = np.corrcoef(drawn.T.numpy())
    # Standard error 1/√4000; 120 pairs, so 5 of them for all.
    assert np.abs(correlation - np.eye(16)).max() < 5 / 4000**0.5
    rows = drawn.numpy()
    neighbours = np.corrcoef(rows[:-1].ravel(), rows[1:].ravel())[0, 1]
    assert abs(neighbours) < 5 / rows.size**0.5


@given(
    places=st.lists(
        st.tuples(st.integers(0, 2**31), st.integers(0, 2**20)), min_size=1, max_size=9
    ),
    order=st.randoms(),
    d=st.integers(1, 9),
)
def test_noise_does_not_depend_on_which_tokens_come_along(places, order, d):
    source = NoiseSource(0, "eps_random")
    together = _normal(source, places, d=d)
    index = list(range(len(places)))
    order.shuffle(index)
    index = index[: 1 + len(index) // 2]
    assert torch.equal(_normal(source, [places[i] for i in index], d=d), together[index])


def test_chunks_give_what_one_piece_gives(monkeypatch):
    source = NoiseSource(0, "eps_random")
    whole = _normal(source, _grid(5, 7), d=10)
    monkeypatch.setattr("saebench.substitution.noise._COUNTERS_AT_ONCE", {"cpu": 5, "cuda": 5})
    assert torch.equal(_normal(source, _grid(5, 7), d=10), whole)


def test_several_draws_at_once_are_the_draws_one_by_one():
    source = NoiseSource(0, "eps_random")
    sequence, position = torch.tensor(_grid(2, 3)).T
    draw = torch.arange(4).repeat_interleave(6)
    found = source.normal(sequence.repeat(4), position.repeat(4), d=10, draw=draw)
    expected = [_normal(source, _grid(2, 3), d=10, draw=k) for k in range(4)]
    assert torch.equal(found, torch.cat(expected))


@given(st.integers(0, 2**40), st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))
def test_every_part_of_the_place_matters(seed, sequence, position, draw):
    def at(seed=seed, name="eps_random", s=sequence, t=position, k=draw):
        return _normal(NoiseSource(seed, name), [(s, t)], d=4, draw=k)

    others = [
        at(seed=seed + 1),
        at(name="cov_random"),
        at(s=sequence + 1),
        at(t=position + 1),
        at(k=draw + 1),
    ]
    assert torch.equal(at(), at())
    assert not any(torch.equal(at(), other) for other in others)


def test_global_random_state_is_neither_read_nor_changed():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = _normal(NoiseSource(0, "eps_random"), [(0, 1)], d=4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(_normal(NoiseSource(0, "eps_random"), [(0, 1)], d=4), first)


@pytest.mark.parametrize("high", [1, 7, 4096, 2**31 - 1])
def test_integers_are_in_range_and_uniform(high: int):
    sequence, position = torch.tensor(_grid(40, 50)).T
    words = NoiseSource(0, "real_difference").integers(sequence, position)
    drawn = below(words, high)
    assert drawn.min() >= 0
    assert drawn.max() < high
    cells = min(high, 7)
    counts = torch.bincount((drawn.flatten() * cells) // high, minlength=cells)
    expected = [8000 * (-(-(i + 1) * high // cells) - -(-i * high // cells)) / high
                for i in range(cells)]  # fmt: skip
    assert cells == 1 or stats.chisquare(counts, expected).pvalue > 1e-3
