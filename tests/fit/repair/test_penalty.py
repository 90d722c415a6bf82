"""Which L1 penalty an SAE was trained with: as its metadata says, or with a folded norm."""

import pytest
import torch
from sae_lens import StandardSAE, StandardSAEConfig
from sae_lens.saes.sae import SAEMetadata

from saebench.fit.repair.suppression import balance, penalty_of

WIDTH, L1 = 6, 0.8


def _orthogonal(*, stated: float | None, taken_off: float, size: float = 5.0):
    """Return an SAE that takes so much off each of its features, and activations."""
    details = {} if stated is None else {"l1_coefficient": stated, "lp_norm": 1.0}
    metadata = SAEMetadata(training_architecture="standard", training_architecture_details=details)
    sae = StandardSAE(
        StandardSAEConfig(d_in=WIDTH, d_sae=WIDTH, apply_b_dec_to_input=False, metadata=metadata)
    )
    turned = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.manual_seed(0)))[0]
    with torch.no_grad():
        sae.W_enc.copy_(turned.T)
        sae.W_dec.copy_(turned)
        sae.b_enc.fill_(-taken_off)
        sae.b_dec.zero_()
    x = torch.zeros(64, WIDTH)
    x[torch.arange(64), torch.arange(64) % WIDTH] = size
    return sae, x @ turned


def test_an_orthogonal_sae_rests_at_twice_what_it_takes_off():
    sae, x = _orthogonal(stated=None, taken_off=L1 / 2)
    assert balance(sae, x) == pytest.approx(L1, rel=1e-5)


def test_a_penalty_on_plain_activations_is_the_metadatas():
    sae, x = _orthogonal(stated=L1, taken_off=L1 / 2)
    penalty = penalty_of(sae, x)
    assert penalty.coefficient == L1
    assert penalty.note is None


def test_a_penalty_on_normed_activations_is_turned_into_their_own_units():
    stated = L1 * WIDTH**0.5 / 5.0  # of activations of norm √d, where these have norm 5
    sae, x = _orthogonal(stated=stated, taken_off=L1 / 2)
    penalty = penalty_of(sae, x)
    assert penalty.coefficient == pytest.approx(L1, rel=1e-5)
    assert "norm √d" in penalty.note


def test_an_sae_that_rests_at_neither_has_a_note():
    sae, x = _orthogonal(stated=L1, taken_off=4 * L1)
    penalty = penalty_of(sae, x)
    assert penalty.coefficient == L1
    assert "rests at" in penalty.note


def test_an_sae_without_a_known_penalty_has_no_coefficient():
    sae, x = _orthogonal(stated=None, taken_off=0.1)
    assert penalty_of(sae, x).coefficient is None


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_the_stories_saes_were_trained_on_normed_activations(real_data, layer):
    from saebench.data.documents import open_documents
    from saebench.data.packed import RowSource
    from saebench.fit.stream import ActivationStream
    from saebench.options import Overrides
    from saebench.subjects.host_loading import load_host
    from saebench.subjects.loading import load_subject
    from saebench.subjects.references import find_subjects
    from saebench.substitution.engine import site_of

    (reference,) = find_subjects([real_data.sae(f"l{layer}-standard")])
    subject = load_subject(reference, overrides=Overrides(), device="cpu")
    host = load_host(real_data.model, device="cpu", dtype="float32", asked_by="test")
    rows = RowSource(
        open_documents(real_data.heldout), host.tokenizer, 128, host.tokenizer.bos_token_id,
        host.special_ids,
    )  # fmt: skip
    stream = ActivationStream(host, site_of(host, subject), rows, batch_tokens=2048, seed=0)
    penalty = penalty_of(subject.sae, stream.first(8192))
    assert "norm √d" in penalty.note
    assert penalty.coefficient < 1.4  # the metadata's is 1.5
