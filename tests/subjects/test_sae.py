"""Every SAELens architecture is loaded and reconstructs as SAELens itself does."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from families import WIDTH, StubTokenizer, make_model, random_ids
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from saebench.errors import SubjectError
from saebench.options import Overrides
from saebench.subjects.features import INDEPENDENT
from saebench.subjects.hooks import find_site
from saebench.subjects.host import Host
from saebench.subjects.loading import load_subject, wrap_sae
from saebench.subjects.references import find_subjects
from saebench.subjects.sae import Subject
from saebench.substitution.batches import read_rows
from saebench.substitution.passes import Passes

D, FEATURES = 16, 48
HOOK = "blocks.1.hook_resid_pre"
PLAIN = ("standard", "topk", "jumprelu", "gated", "abstopk")
TRAINED = ("batchtopk", "matryoshka_batchtopk")


def _x(rows: int = 300, seed: int = 0) -> Tensor:
    return 2 * torch.randn(rows, D, generator=torch.Generator().manual_seed(seed))


def _metadata(**changes: Any) -> Any:
    from sae_lens.saes.sae import SAEMetadata

    config = {"hook_name": HOOK, "model_name": "m", "context_size": 16, "prepend_bos": True}
    return SAEMetadata(**(config | changes))


def _made(name: str, *, metadata: Any = None, **options: Any) -> Any:
    """Return a random SAE; TRAINED ones in their training form, with a threshold learned."""
    import sae_lens as s

    k = {"k": 5}
    kinds = {
        "standard": (s.StandardSAE, s.StandardSAEConfig, {}),
        "topk": (s.TopKSAE, s.TopKSAEConfig, k),
        "jumprelu": (s.JumpReLUSAE, s.JumpReLUSAEConfig, {}),
        "gated": (s.GatedSAE, s.GatedSAEConfig, {}),
        "abstopk": (s.AbsTopKSAE, s.AbsTopKSAEConfig, k),
        "batchtopk": (s.BatchTopKTrainingSAE, s.BatchTopKTrainingSAEConfig, k),
        "matryoshka_batchtopk": (
            s.MatryoshkaBatchTopKTrainingSAE, s.MatryoshkaBatchTopKTrainingSAEConfig,
            k | {"matryoshka_widths": [16, FEATURES]},
        ),
    }  # fmt: skip
    sae_class, config_class, own = kinds[name]
    sizes = {"d_in": D, "d_sae": FEATURES}
    sae = sae_class(config_class(**(sizes | own | options), metadata=metadata or _metadata()))
    _randomise(sae, name)
    return sae


@torch.no_grad()
def _randomise(sae: Any, name: str) -> None:
    generator = torch.Generator().manual_seed(4)
    for parameter in sae.parameters():
        parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    if name == "jumprelu":
        sae.threshold.abs_()
    if name in TRAINED:
        sae.topk_threshold.fill_(1.25)


def _load(path: Path) -> Subject:
    [reference] = find_subjects([str(path)])
    return load_subject(reference, overrides=Overrides(), device="cpu")


def _assert_reconstructs(subject: Subject, sae: Any) -> None:
    with torch.no_grad():
        features = sae.encode(_x())
        features = features.to_dense() if features.is_sparse else features
        expected = sae(_x())
    found = subject.reconstruct(_x())
    # The same fp32 products, in chunks of rows.
    torch.testing.assert_close(found.x_hat, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(found.l0, (features != 0).sum(-1).float())
    assert torch.equal(found.fired, (features != 0).sum(0))
    assert torch.equal(subject.active(_x()), features != 0)
    torch.testing.assert_close(found.l1, features.abs().sum(-1), rtol=1e-5, atol=1e-5)
    assert 0 < found.l0.mean() < FEATURES


@pytest.mark.parametrize("name", PLAIN)
def test_a_saved_sae_reconstructs_as_saelens_does(name: str, tmp_path: Path):
    sae = _made(name)
    sae.save_model(tmp_path / "sae")
    subject = _load(tmp_path / "sae")
    assert (subject.architecture, subject.d_in, subject.d_sae) == (name, D, FEATURES)
    _assert_reconstructs(subject, sae)


@pytest.mark.parametrize("rescaled", [False, True])
def test_topk_reconstructs_where_acts_are_rescaled_and_sparse(rescaled: bool, tmp_path: Path):
    sae = _made("topk", rescale_acts_by_decoder_norm=rescaled)
    sae.save_model(tmp_path / "sae")
    subject = _load(tmp_path / "sae")
    _assert_reconstructs(subject, sae)
    subject._sparse = True  # the gathering decode, which larger SAEs take
    assert subject._decodes_sparsely()
    _assert_reconstructs(subject, sae)


@pytest.mark.parametrize("name", [*PLAIN])
def test_the_gathering_decode_gives_what_decode_gives(name: str):
    sae = _made(name)
    subject = wrap_sae(sae, id="sae", overrides=Overrides())
    assert subject._decodes_sparsely()
    subject._sparse = True
    _assert_reconstructs(subject, sae)


@pytest.mark.parametrize("name", INDEPENDENT)
@pytest.mark.parametrize("tile", [7, FEATURES, 2 * FEATURES])
def test_features_by_tiles_are_those_of_the_whole_encoder(name: str, tile: int, monkeypatch):
    monkeypatch.setattr("saebench.subjects.features.TILE", tile)
    monkeypatch.setattr("saebench.subjects.sae.SPARSE_SHARE", 1.1)
    sae = _made(name)
    subject = wrap_sae(sae, id="sae", overrides=Overrides())
    assert subject._encodes_by_tiles()
    subject._tiled = True
    monkeypatch.setattr(subject, "_by_rows", None)  # would fail if it were taken
    _assert_reconstructs(subject, sae)


def test_many_active_features_are_not_gathered_by_tiles(monkeypatch):
    monkeypatch.setattr("saebench.subjects.features.TILE", 7)
    sae = _made("standard")  # half of the features fire
    subject = wrap_sae(sae, id="sae", overrides=Overrides())
    subject._tiled = True
    monkeypatch.setattr(subject, "_gathered", None)
    _assert_reconstructs(subject, sae)


def test_where_a_gpu_would_be_waited_for_the_decoder_is_a_product(monkeypatch):
    sae = _made("standard")
    subject = wrap_sae(sae, id="sae", overrides=Overrides())
    subject._sparse = subject._tiled = True
    monkeypatch.setattr(subject, "_on_cpu", lambda _: False)
    monkeypatch.setattr(subject, "_gathered", None)
    monkeypatch.setattr("saebench.subjects.sae.SPARSE_SHARE", 1.1)
    _assert_reconstructs(subject, sae)


@pytest.mark.parametrize("name", ["topk", "abstopk"])
def test_features_that_depend_on_one_another_are_not_taken_by_tiles(name: str):
    assert not wrap_sae(_made(name), id="sae", overrides=Overrides())._encodes_by_tiles()


def test_an_sae_with_as_many_features_as_components_is_not_cut_into_tiles():
    sae = _made("standard", d_sae=D)
    assert not wrap_sae(sae, id="sae", overrides=Overrides())._encodes_by_tiles()


@pytest.mark.parametrize("name", TRAINED)
def test_a_training_directory_is_judged_by_its_threshold_and_not_by_the_batch(name, tmp_path):
    training = _made(name)
    training.save_model(tmp_path / "sae")
    subject = _load(tmp_path / "sae")
    whole = subject.reconstruct(_x())
    alone = torch.cat([subject.reconstruct(row[None]).x_hat for row in _x()[:20]])
    torch.testing.assert_close(whole.x_hat[:20], alone, rtol=1e-5, atol=1e-5)  # fp32 kernels
    active = whole.l0
    assert active.std() > 0  # a threshold, not k in each row
    pre = (_x() - training.b_dec) @ training.W_enc + training.b_enc
    if not training.cfg.rescale_acts_by_decoder_norm:
        assert torch.equal(active, (pre > 1.25).sum(-1).float())


def test_inference_directories_of_batchtopk_are_jumprelus_with_the_same_result(tmp_path: Path):
    training = _made("batchtopk")
    training.save_model(tmp_path / "training")
    training.save_inference_model(tmp_path / "inference")
    one, two = _load(tmp_path / "training"), _load(tmp_path / "inference")
    assert torch.equal(one.reconstruct(_x()).x_hat, two.reconstruct(_x()).x_hat)


def test_l1_with_a_unit_decoder_weighs_each_feature_by_its_decoder_norm():
    sae = _made("standard")
    subject = wrap_sae(sae, id="sae", overrides=Overrides())
    found = subject.reconstruct(_x())
    folded = copy.deepcopy(sae)
    folded.fold_W_dec_norm()
    expected = folded.encode(_x()).sum(-1)
    torch.testing.assert_close(found.l1_unit, expected, rtol=1e-5, atol=1e-4)  # fp32 sums of 48
    torch.testing.assert_close(
        sae.W_dec, wrap_sae(sae, id="a", overrides=Overrides()).sae.W_dec, rtol=0, atol=0
    )


def test_layer_norm_normalisation_is_saelens_in_any_chunk():
    sae = _made("standard", normalize_activations="layer_norm")
    subject = wrap_sae(sae, id="sae", overrides=Overrides())
    torch.testing.assert_close(
        subject.reconstruct(_x()).x_hat, sae(_x()), rtol=1e-5, atol=1e-5
    )  # fp32 products on other numbers of rows
    assert not subject._decodes_sparsely()


@pytest.mark.parametrize("kind", ["expected_average_only_in", "covariance_whitening"])
def test_a_normalisation_that_is_not_folded_is_refused(kind: str, tmp_path: Path):
    _made("standard", normalize_activations=kind).save_model(tmp_path / "sae")
    with pytest.raises(SubjectError, match="is not folded"):
        _load(tmp_path / "sae")


def test_a_normalisation_with_its_factor_in_the_directory_is_folded(tmp_path: Path):
    sae = _made("standard", normalize_activations="expected_average_only_in")
    sae.save_model(tmp_path / "sae")
    (tmp_path / "sae" / "activation_scaler.json").write_text(json.dumps({"scaling_factor": 0.4}))
    found = _load(tmp_path / "sae").reconstruct(_x())
    expected = sae(_x() * 0.4) / 0.4
    torch.testing.assert_close(found.x_hat, expected, rtol=1e-5, atol=1e-5)  # fp32 products


def test_an_object_whose_normalisation_is_not_folded_is_refused():
    sae = _made("standard", normalize_activations="expected_average_only_in")
    with pytest.raises(SubjectError, match="is not folded"):
        wrap_sae(sae, id="sae", overrides=Overrides())


def test_weights_that_are_nan_are_refused_by_name(tmp_path: Path):
    _made("standard").save_model(tmp_path / "sae")
    file = tmp_path / "sae" / "sae_weights.safetensors"
    tensors = load_file(file)
    tensors["W_dec"][3, 2] = float("nan")
    save_file(tensors, file)
    with pytest.raises(SubjectError, match="W_dec has 1 values that are NaN"):
        _load(tmp_path / "sae")


def test_a_hook_z_sae_that_reshapes_takes_flat_heads(tmp_path: Path):
    metadata = _metadata(hook_name="blocks.1.attn.hook_z")
    sae = _made("standard", reshape_activations="hook_z", metadata=metadata)
    assert sae.hook_z_reshaping_mode
    expected = sae(_x().view(300, 4, D // 4)).flatten(1)
    sae.save_model(tmp_path / "sae")
    for subject in (_load(tmp_path / "sae"), wrap_sae(sae, id="sae", overrides=Overrides())):
        found = subject.reconstruct(_x()).x_hat
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)  # fp32 products
    assert sae.hook_z_reshaping_mode


@pytest.mark.parametrize("name", [*PLAIN, *TRAINED])
def test_a_users_object_is_left_as_it_was(name: str):
    # Its training mode is judge()'s to restore, for models and SAEs alike.
    sae = _made(name)
    before = copy.deepcopy(sae.state_dict())
    wrap_sae(sae, id="sae", overrides=Overrides()).reconstruct(_x())
    after = sae.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


class _Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(D, FEATURES)
        self.down = nn.Linear(FEATURES, D)

    def encode(self, x: Tensor) -> Tensor:
        return self.up(x).relu()

    def decode(self, features: Tensor) -> Tensor:
        return self.down(features)


def test_any_module_with_encode_and_decode_is_wrapped():
    module = _Plain()
    subject = wrap_sae(module, id="mine", overrides=Overrides(hook=HOOK))
    found = subject.reconstruct(_x())
    torch.testing.assert_close(found.x_hat, module.decode(module.encode(_x())))
    assert found.l1_unit is None
    assert found.fired.shape == (FEATURES,)


def test_sparse_features_are_counted_as_dense_ones():
    class Sparse(_Plain):
        def encode(self, x: Tensor) -> Tensor:
            return super().encode(x).to_sparse()

        def decode(self, features: Tensor) -> Tensor:
            return super().decode(features.to_dense())

    sparse, dense = Sparse(), _Plain()
    dense.load_state_dict(sparse.state_dict())
    found, expected = (
        wrap_sae(m, id="x", overrides=Overrides(hook=HOOK)).reconstruct(_x())
        for m in (sparse, dense)
    )
    assert torch.equal(found.x_hat, expected.x_hat)
    assert torch.equal(found.l0, expected.l0)
    assert torch.equal(found.fired, expected.fired)


def test_the_gathering_decode_of_tokens_without_features_is_the_bias():
    sae = _made("standard")
    with torch.no_grad():
        sae.b_enc.fill_(-1e6)
    subject = wrap_sae(sae, id="sae", overrides=Overrides())
    subject._sparse = True
    found = subject.reconstruct(_x(5))
    assert torch.equal(found.x_hat, sae.b_dec.expand(5, D))
    assert not found.l0.any()


def test_what_cannot_encode_is_refused():
    with pytest.raises(SubjectError, match="with encode and decode"):
        wrap_sae(nn.Linear(2, 2), id="x", overrides=Overrides(hook=HOOK))


def test_an_sae_without_a_hook_says_which_option_gives_it():
    with pytest.raises(SubjectError, match="--sae-hook"):
        wrap_sae(_Plain(), id="x", overrides=Overrides())


@torch.no_grad()
def _with_centred_writing_weights(model: Any) -> Any:
    """Centre every weight that writes to the residual stream, over the stream's components."""
    model = copy.deepcopy(model)
    inner = model.transformer
    inner.wte.weight = nn.Parameter(inner.wte.weight - inner.wte.weight.mean(-1, keepdim=True))
    inner.wpe.weight.sub_(inner.wpe.weight.mean(-1, keepdim=True))
    for block in inner.h:
        for writer in (block.attn.c_proj, block.mlp.c_proj):
            writer.weight.sub_(writer.weight.mean(-1, keepdim=True))
            writer.bias.sub_(writer.bias.mean())
    return model


@pytest.mark.parametrize(
    "hook", ["hook_resid_pre", "hook_resid_mid", "hook_attn_out", "hook_mlp_out", "hook_resid_post"]
)
def test_a_centred_site_sees_what_a_model_with_centred_weights_has(hook: str):
    model, ids = make_model("gpt2", tie_word_embeddings=False), random_ids(2, 10)
    every = torch.ones(2, 10, dtype=torch.bool)
    seen = []
    for m, centred in ((model, True), (_with_centred_writing_weights(model), False)):
        host = Host(m, StubTokenizer(), name="gpt2")
        site = find_site(host, f"blocks.1.{hook}", centred=centred)
        assert site.width == WIDTH
        seen.append(read_rows(site, Passes(host).clean(ids, [site]).activations[site], every))
    # LayerNorm reads neither mean; fp32 rounding through two blocks of activations of size 10.
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("hook", ["hook_resid_pre", "hook_attn_out", "hook_mlp_out"])
def test_substituting_at_a_centred_site_is_substituting_in_the_centred_model(hook: str):
    model, ids = make_model("gpt2", tie_word_embeddings=False), random_ids(2, 10)
    changed = torch.randn(1, 2, 10, WIDTH, generator=torch.Generator().manual_seed(0))
    changed -= changed.mean(-1, keepdim=True)
    finals = []
    for m, centred in ((model, True), (_with_centred_writing_weights(model), False)):
        host = Host(m, StubTokenizer(), name="gpt2")
        site = find_site(host, f"blocks.1.{hook}", centred=centred)
        passes = Passes(host)
        finals.append(passes.resume(passes.clean(ids, [site]), site, changed))
    torch.testing.assert_close(finals[0], finals[1], rtol=1e-4, atol=1e-4)  # as above
