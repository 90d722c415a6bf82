"""Features listed instead of multiplied out: SAELens' own output and gradients."""

import pytest
import torch

from saebench.fit.training import Sparsity
from saebench.fit.training import training_sae as coding
from saebench.fit.training.training_sae import code, make_sae

PARAMETERS = ("W_enc", "b_enc", "W_dec", "b_dec")


def _sae(sparsity):
    sae = make_sae(d_in=16, d_sae=64, sparsity=Sparsity.parse(sparsity), metadata={}, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name in PARAMETERS:
            parameter = getattr(sae, name)
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        if sparsity.startswith("l1"):
            sae.b_enc.sub_(1.5)
    return sae


def _x():
    return torch.randn(50, 16, generator=torch.Generator().manual_seed(2)).requires_grad_(True)


def _gradients(sae, x, loss):
    inputs = [x, *(getattr(sae, name) for name in PARAMETERS)]
    return torch.autograd.grad(loss, inputs)


@pytest.mark.parametrize("sparsity", ["topk:1", "topk:5", "topk:64", "batchtopk:3", "l1:1"])
def test_output_and_gradients_are_those_of_saelens(sparsity, monkeypatch):
    monkeypatch.setattr(coding, "SPARSE_FROM", 1)
    monkeypatch.setattr(coding, "SPARSE_SHARE", 1.0)
    sae, x = _sae(sparsity), _x()
    target = torch.randn(50, 16, generator=torch.Generator().manual_seed(3))
    ours = code(sae, x).x_hat
    features, _ = sae.encode_with_hidden_pre(x)
    theirs = sae.decode(features)
    torch.testing.assert_close(ours, theirs)
    one, two = (_gradients(sae, x, (y - target).square().mean()) for y in (ours, theirs))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("sparsity", ["topk:5", "batchtopk:3", "l1:1"])
def test_the_features_that_fired_are_saelens(sparsity):
    sae, x = _sae(sparsity), _x()
    coded = code(sae, x)
    features, _ = sae.encode_with_hidden_pre(x)
    assert torch.equal(coded.fired, (features != 0).any(dim=0))
    assert 0 < coded.fired.sum() < 64 or sparsity != "l1:1"
    assert (coded.values > 0).sum() == (features > 0).sum()


def test_a_token_at_which_nothing_fires_gets_the_bias_alone(monkeypatch):
    monkeypatch.setattr(coding, "SPARSE_FROM", 1)
    sae, x = _sae("l1:1"), _x()
    with torch.no_grad():
        sae.b_enc[:] = -100.0
        sae.b_enc[3] = 0.0
    quiet = (sae.encode(x) == 0).all(dim=1)
    assert 0 < quiet.sum() < 50
    assert torch.equal(code(sae, x).x_hat[quiet], sae.b_dec.expand(int(quiet.sum()), -1))


def test_the_size_is_saelens_penalty_with_its_gradient():
    sae, x = _sae("l1:1"), _x()
    features, _ = sae.encode_with_hidden_pre(x)
    plain = (features * sae.W_dec.norm(dim=1)).sum(dim=1).mean()
    size = code(sae, x, sized=True).size
    torch.testing.assert_close(size, plain)
    torch.testing.assert_close(
        torch.autograd.grad(size, sae.W_enc)[0], torch.autograd.grad(plain, sae.W_enc)[0]
    )
