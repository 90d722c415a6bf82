import numpy as np
import pytest
import torch

from saebench.substitution.measurement import Spread

N, TOKENS, D = 7, 11, 5


def _activations() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    apart = 0.3 * torch.randn(N, 1, D, generator=generator)
    return 4 + apart + torch.randn(N, TOKENS, D, generator=generator)


def _moved(x: torch.Tensor, centre: torch.Tensor, *, by_sequence: bool) -> np.ndarray:
    """Return each sequence's squared deviation after the move."""
    spread = Spread(N, centre, by_sequence=by_sequence)
    for rows in (slice(0, 3), slice(3, N)):
        sequence = torch.arange(N)[rows].repeat_interleave(TOKENS)
        spread.update(x[rows].flatten(0, 1), sequence)
    counts = torch.full((N,), float(TOKENS), dtype=torch.float64)
    before = (x - centre).double().square().sum(dim=(1, 2))
    return before.numpy() + spread.moves().moved(counts.numpy())


def _expected(x: torch.Tensor) -> np.ndarray:
    mean = x.double().mean(dim=(0, 1))
    return (x.double() - mean).square().sum(dim=(1, 2)).numpy()


def test_with_every_sequences_sum_any_centre_gives_the_deviations_from_the_mean():
    x = _activations()
    found = _moved(x, torch.zeros(D), by_sequence=True)
    np.testing.assert_allclose(found, _expected(x), rtol=1e-5)


def test_with_the_total_alone_the_total_is_exact():
    x = _activations()
    found = _moved(x, x[:2].mean(dim=(0, 1)), by_sequence=False)
    assert found.sum() == pytest.approx(_expected(x).sum(), rel=1e-6)


def test_with_the_total_alone_a_near_centre_leaves_every_sequence_nearly_right():
    x = _activations()
    near = x.mean(dim=(0, 1)) + 0.01
    found = _moved(x, near, by_sequence=False)
    np.testing.assert_allclose(found, _expected(x), rtol=0.02)
