"""Duplicates against a loop over all pairs of features."""

import numpy as np
import pytest
import torch

from saebench.measures.duplicates import duplicates


def _made(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Some features are near copies of others, and fire with them more or less often."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(30, 6))
    fired = rng.random((40, 30)) < 0.2
    for i in range(10):
        directions[i + 10] = 3 * (directions[i] + rng.normal(0, 0.12, 6))
        fired[:, i + 10] = np.where(rng.random(40) < 0.5, fired[:, i], fired[:, i + 10])
    fired[:, 5] = False
    return torch.from_numpy(directions).float(), torch.from_numpy(fired)


def _by_pairs(directions: np.ndarray, fired: np.ndarray) -> list[bool]:
    found = []
    for i, one in enumerate(directions):
        repeated = False
        for j, other in enumerate(directions):
            cosine = one @ other / np.sqrt((one @ one) * (other @ other))
            together = sum(fired[t, i] and fired[t, j] for t in range(len(fired)))
            both = cosine > 0.95 and together >= 0.5 * fired[:, i].sum()
            repeated |= bool(i != j and both and fired[:, i].any())
        found.append(repeated)
    return found


@pytest.mark.parametrize("tile", [1, 7, 1024])
@pytest.mark.parametrize("seed", range(5))
def test_duplicates_are_those_of_a_loop_over_pairs_whatever_the_tile(seed, tile):
    directions, fired = _made(seed)
    expected = _by_pairs(directions.double().numpy(), fired.numpy())
    assert any(expected)
    assert duplicates(directions, fired, tile=tile).tolist() == expected


def test_every_feature_twice_is_all_duplicates_and_opposite_ones_are_none():
    directions, fired = torch.randn(8, 20, generator=torch.Generator().manual_seed(0)), _made(0)[1]
    fired = fired[:, 10:18]
    twice = duplicates(directions.repeat(2, 1), fired.repeat(1, 2))
    assert torch.equal(twice, fired.any(dim=0).repeat(2))
    assert not duplicates(torch.cat([directions, -directions]), fired.repeat(1, 2)).any()


def test_an_sae_that_never_fires_has_no_duplicates():
    assert not duplicates(torch.ones(3, 2), torch.zeros(5, 3, dtype=torch.bool)).any()
