"""Controls derived from SAEs of other libraries, or without l0 in their metadata."""

import pytest
import torch
from torch import nn

from saebench.errors import SubjectError
from saebench.subjects.made_controls import make_control

X = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))


class _Plain(nn.Module):
    """A module with a decoder matrix and nothing else that SAELens has."""

    def __init__(self) -> None:
        super().__init__()
        drawn = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
        self.W_dec = nn.Parameter(drawn)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return (x @ self.W_dec.T - 1).relu()

    def decode(self, features: torch.Tensor) -> torch.Tensor:
        return features @ self.W_dec


@pytest.mark.parametrize(("l0", "active"), [(3.2, 3), (0.1, 1), (999.0, 20)])
def test_as_many_random_directions_are_considered_as_features_were_active(l0, active):
    control = make_control("l0_matched_random", _Plain(), l0=l0)
    fired = (control.encode(X) != 0).sum(dim=-1)
    # Of the largest products a negative one stays silent.
    assert fired.max() == min(active, fired.max())
    assert (fired > 0).float().mean() > 0.9
    assert control.decode(control.encode(X)).shape == X.shape


def test_without_an_l0_there_is_nothing_to_match():
    with pytest.raises(SubjectError, match="no l0 in its metadata to match"):
        make_control("l0_matched_random", _Plain())


def test_an_sae_that_says_nothing_has_nothing_to_match():
    with pytest.raises(SubjectError, match="no active feature to match"):
        make_control("l0_matched_random", _Plain(), l0=0.0)


@pytest.mark.parametrize("name", ["permuted_decoder", "random_init", "l0_matched_random"])
def test_an_sae_without_a_decoder_matrix_has_no_such_control(name):
    with pytest.raises(SubjectError, match=f"{name}: Linear has no decoder matrix"):
        make_control(name, nn.Linear(2, 2), l0=2)


def test_a_permuted_decoder_fires_as_before_and_says_something_else():
    plain = _Plain()
    control = make_control("permuted_decoder", plain)
    before = plain.W_dec.detach()
    assert torch.equal(control.W_dec.sort(dim=0).values, before.sort(dim=0).values)
    assert not torch.equal(control.W_dec, before)


def test_scaled_is_seven_tenths_of_the_output():
    plain = _Plain()
    control = make_control("scaled", plain)
    expected = 0.7 * plain.decode(plain.encode(X))
    assert torch.equal(control.decode(control.encode(X)), expected)
