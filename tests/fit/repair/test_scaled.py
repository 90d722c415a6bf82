"""Scaled SAEs: what each method moves, and that folding gives the same SAE."""

import pytest
import torch

from saebench.errors import SubjectError
from saebench.fit.repair import Method
from saebench.fit.repair.repair_inputs import check_repairable
from saebench.fit.repair.repair_tasks import ScaledSAE
from saebench.zoo.shelf import sae_path

FROZEN = [m for m in Method if m.keeps_features]
ZOO = ("l2-standard", "l2-gated", "l2-jumprelu", "l2-topk", "l2-batchtopk")


def zoo_sae(name):
    from sae_lens import SAE

    return SAE.load_from_disk(sae_path(name)).eval()


def activations(n=200):
    return 3 * torch.randn(n, 128, generator=torch.Generator().manual_seed(0))


def moved(sae, method):
    """A scaled SAE whose fitted decoder parts were moved."""
    scaled = ScaledSAE(sae, method)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in scaled.named_parameters():
            if parameter.requires_grad and not name.startswith("sae."):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return scaled


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("method", FROZEN)
def test_a_folded_sae_gives_what_the_scaled_one_gave(name, method):
    scaled, x = moved(zoo_sae(name), method), activations()
    with torch.no_grad():
        assert torch.allclose(scaled.folded()(x), scaled(x), atol=1e-3)


@pytest.mark.parametrize("name", [n for n in ZOO if n != "l2-topk"])
@pytest.mark.parametrize("method", FROZEN)
def test_a_frozen_encoder_keeps_every_bit_of_its_features(name, method):
    sae, x = zoo_sae(name), activations()
    with torch.no_grad():
        assert torch.equal(moved(sae, method).features(x), sae.encode(x))


def test_scale_keeps_every_bit_of_the_features_in_the_saved_sae_too(tmp_path):
    from sae_lens import SAE

    sae, x = zoo_sae("l2-standard"), activations()
    moved(sae, Method.SCALE).folded().save_model(tmp_path)
    with torch.no_grad():
        assert torch.equal(SAE.load_from_disk(tmp_path).encode(x), sae.encode(x))


def test_unrotated_methods_leave_the_decoder_s_directions():
    sae = zoo_sae("l2-standard")
    after = moved(sae, Method.UNROTATED_DECODER).folded().W_dec
    assert torch.cosine_similarity(sae.W_dec, after).abs().min() > 1 - 1e-5


def test_a_tied_sae_is_refused():
    sae = zoo_sae("l2-standard")
    sae.W_dec.data = sae.W_enc.data.T
    with pytest.raises(SubjectError, match="tied"):
        check_repairable(sae, where="x", method=Method.SCALE)


def test_an_sae_without_an_encoder_bias_is_refused_by_its_name():
    sae = zoo_sae("l2-standard")
    del sae.b_enc
    with pytest.raises(SubjectError, match="without b_enc"):
        check_repairable(sae, where="x", method=Method.SCALE)
