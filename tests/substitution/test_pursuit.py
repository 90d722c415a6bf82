"""Orthogonal matching pursuit over random directions, against numpy's least squares."""

import numpy as np
import pytest
import torch

from saebench.substitution.pursuit import PursuitErrors, omp_errors


def _by_least_squares(x: np.ndarray, k: int, dictionary: np.ndarray) -> float:
    chosen, left = [], x
    for _ in range(k):
        chosen.append(int(np.abs(dictionary @ left).argmax()))
        basis = dictionary[chosen].T
        left = x - basis @ np.linalg.lstsq(basis, x, rcond=None)[0]
    return float(left @ left)


@pytest.mark.parametrize("directions", [24, 100])
def test_errors_are_those_of_projections_on_the_chosen_directions(directions):
    x = torch.randn(30, 16, generator=torch.Generator().manual_seed(1))
    k = torch.arange(30).remainder(9).float()
    drawn = torch.randn(directions, 16, generator=torch.Generator().manual_seed(7))
    dictionary = (drawn / drawn.norm(dim=-1, keepdim=True)).double().numpy()
    rows = zip(x.double().numpy(), k.long().tolist(), strict=True)
    expected = [_by_least_squares(row, count, dictionary) for row, count in rows]
    found = omp_errors(x, k, directions=directions, seed=7)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_as_many_directions_as_dimensions_leave_nothing():
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    left = omp_errors(x, torch.full((5,), 20.0), directions=64, seed=0)
    assert left.max() < 1e-9


def test_more_directions_leave_less():
    x = torch.randn(200, 32, generator=torch.Generator().manual_seed(1))
    left = [
        float(omp_errors(x, torch.full((200,), k), directions=256, seed=0).sum())
        for k in (1.0, 2.0, 4.0, 8.0)
    ]
    assert left == sorted(left, reverse=True)


def test_sums_are_by_the_tokens_texts():
    errors = PursuitErrors(np.array([1.0, 2, 3]), np.array([4.0, 5, 6]), np.array([7, 9, 7]))
    table = errors.by_text()
    assert table["sae"].tolist() == [4.0, 2.0]
    assert table["random"].tolist() == [10.0, 5.0]
    assert table["n"].tolist() == [2.0, 1.0]
