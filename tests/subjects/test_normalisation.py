"""Normalisation of training's activations: folded by the SAE's files, or by option."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from old_saelens import (
    D,
    activations,
    doubles,
    features_by_hand,
    gated_tensors,
    load,
    random_tensors,
    save,
    save_6,
)
from safetensors.torch import save_file

from saebench.errors import OptionError, SubjectError
from saebench.options import Overrides
from saebench.subjects.loading import wrap_sae

FACTOR, K = 0.4, 5
SCALED = {"normalize_activations": "expected_average_only_in"}


def _assert_same(path: Path, expected: np.ndarray, **overrides: Any) -> tuple[str, ...]:
    """Hold what the loaded SAE gives against a reference; return its notes."""
    subject = load(path, **overrides)
    np.testing.assert_allclose(
        subject.reconstruct(activations()).x_hat.numpy(), expected, rtol=1e-4, atol=1e-4
    )
    return subject.metadata.notes


def _scaled(tensors: dict[str, torch.Tensor], factor: float = FACTOR, **given: Any) -> np.ndarray:
    """Return x̂ = decode(encode(s·x)) / s, as it was trained."""
    w, x = doubles(tensors), activations().double().numpy()
    return (features_by_hand(factor * x, w, **given) @ w["W_dec"] + w["b_dec"]) / factor


def _plain(tensors: dict[str, torch.Tensor]) -> np.ndarray:
    return _scaled(tensors, 1.0)


def _store(path: Path, **more: torch.Tensor) -> None:
    """Write what SAELens 5.2 on puts beside a checkpoint."""
    state = {"n_dataset_processed": torch.tensor(3), "storage_buffer_activations": torch.ones(4, D)}
    save_file(state | more, path / "activations_store_state.safetensors")


def test_a_checkpoint_of_saelens_5_is_folded_by_the_factor_beside_it(tmp_path: Path):
    tensors = random_tensors()
    path = save(tmp_path / "sae", tensors, **SCALED)
    _store(path, estimated_norm_scaling_factor=torch.tensor(FACTOR, dtype=torch.float64))
    notes = _assert_same(path, _scaled(tensors))
    assert "normalisation factor 0.4 folded into the weights" in notes


def test_the_last_checkpoint_of_saelens_5_is_folded_already(tmp_path: Path):
    tensors = random_tensors()
    path = save(tmp_path / "final_100", tensors, **SCALED)
    _store(path)
    assert any("is in the weights" in note for note in _assert_same(path, _plain(tensors)))


@pytest.mark.parametrize("version", ["3.22.2", "4.4.5", "5.1.0", "2.1.3"])
def test_without_a_store_an_older_sae_is_refused_with_what_to_say(version: str, tmp_path: Path):
    config = {"sae_lens_version": version, "sae_lens_training_version": version}
    path = save(tmp_path / "final_5", random_tensors(), **SCALED, **config)
    with pytest.raises(SubjectError, match=rf"SAELens {version}, .*final_.*--sae-norm-factor fold"):
        load(path)


def test_the_flag_of_saelens_2_means_the_same_normalisation(tmp_path: Path):
    tensors = random_tensors()
    path = save(tmp_path / "sae", tensors, normalize_activations=True)
    with pytest.raises(SubjectError, match="--sae-norm-factor"):
        load(path)
    _assert_same(path, _scaled(tensors), norm_factor=FACTOR)
    _assert_same(save(tmp_path / "off", tensors, normalize_activations=False), _plain(tensors))


def test_a_store_of_saelens_6_says_nothing_of_folding(tmp_path: Path):
    path = save_6(tmp_path / "sae", random_tensors(), **SCALED)
    _store(path)
    with pytest.raises(SubjectError, match="no file next to the weights has the factor"):
        load(path)


def test_the_scaler_of_saelens_6_is_folded(tmp_path: Path):
    tensors = random_tensors()
    path = save_6(tmp_path / "sae", tensors, **SCALED)
    (path / "activation_scaler.json").write_text(json.dumps({"scaling_factor": FACTOR}))
    _assert_same(path, _scaled(tensors))


@pytest.mark.parametrize("factor", [0, -1, "1", True, float("inf")])
def test_a_factor_in_a_file_that_is_none_is_refused(factor, tmp_path: Path):
    path = save_6(tmp_path / "sae", random_tensors(), **SCALED)
    (path / "activation_scaler.json").write_text(json.dumps({"scaling_factor": factor}))
    with pytest.raises(SubjectError, match=r"activation_scaler\.json: scaling_factor must be"):
        load(path)


def test_the_users_word_goes_over_the_files(tmp_path: Path):
    tensors = random_tensors()
    path = save(tmp_path / "sae", tensors, **SCALED)
    _store(path, estimated_norm_scaling_factor=torch.tensor(9.0))
    _assert_same(path, _scaled(tensors), norm_factor=FACTOR)
    _assert_same(path, _plain(tensors), norm_factor="folded")


def test_a_fold_that_left_the_bias_out_is_noted(tmp_path: Path):
    config = {"sae_lens_version": "4.0.0", "sae_lens_training_version": "3.9.0"}
    path = save(tmp_path / "sae", random_tensors(), **SCALED, **config)
    notes = load(path, norm_factor="folded").metadata.notes
    assert any("SAELens 3.9.0 left b_dec out when it folded" in note for note in notes)


def test_a_factor_that_nothing_needs_is_noted(tmp_path: Path):
    notes = load(save(tmp_path / "sae", random_tensors()), norm_factor=2).metadata.notes
    assert any("--sae-norm-factor 2.0 has no effect" in note for note in notes)


@pytest.mark.parametrize("factor", ["none", "0", -2, "nan", "inf", True, [1], ""])
def test_a_factor_that_cannot_be_is_refused(factor):
    with pytest.raises(OptionError, match="--sae-norm-factor: expected folded, estimate or a num"):
        Overrides(norm_factor=factor)


def test_an_object_is_folded_in_a_copy(tmp_path: Path):
    tensors = random_tensors()
    sae: Any = load(save(tmp_path / "sae", tensors)).sae
    sae.cfg.normalize_activations = SCALED["normalize_activations"]
    with pytest.raises(SubjectError, match="no file next to the weights has the factor"):
        wrap_sae(sae, id="sae", overrides=Overrides())
    found = wrap_sae(sae, id="sae", overrides=Overrides(norm_factor=FACTOR))
    np.testing.assert_allclose(
        found.reconstruct(activations()).x_hat.numpy(), _scaled(tensors), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(sae.W_enc.data, tensors["W_enc"])
    assert sae.cfg.normalize_activations == SCALED["normalize_activations"]


def _whitening(path: Path) -> dict[str, torch.Tensor]:
    """Write a whitening of made-up correlated activations; return it in float64."""
    mixing = torch.randn(D, D, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    values, vectors = torch.linalg.eigh(mixing @ mixing.T / D + torch.eye(D))
    made = {
        "mean": torch.linspace(-1, 1, D, dtype=torch.float64),
        "matrix": (vectors * values.rsqrt()).contiguous(),
        "inverse_matrix": (values.sqrt()[:, None] * vectors.T).contiguous(),
    }
    save_file(made, path / "activation_whitening.safetensors")
    return made


@pytest.mark.parametrize("centres", [True, False])
@pytest.mark.parametrize("architecture", ["standard", "gated", "jumprelu", "topk"])
def test_a_whitening_beside_a_checkpoint_is_folded(architecture, centres: bool, tmp_path: Path):
    tensors = gated_tensors() if architecture == "gated" else random_tensors()
    if architecture == "jumprelu":
        tensors |= {"threshold": random_tensors("threshold")["threshold"]}
    k = {"k": K} if architecture == "topk" else {}
    config = {"architecture": architecture, "apply_b_dec_to_input": centres, **k}
    path = save_6(tmp_path / "sae", tensors, normalize_activations="covariance_whitening", **config)
    m, w = doubles(_whitening(path)), doubles(tensors)
    white = (activations().double().numpy() - m["mean"]) @ m["matrix"]
    found = features_by_hand(white, w, centres=centres, **k) @ w["W_dec"] + w["b_dec"]
    notes = _assert_same(path, found @ m["inverse_matrix"] + m["mean"])
    assert any("activation_whitening.safetensors folded" in note for note in notes)


def test_a_topk_that_selects_by_decoder_norm_is_whitened_too(tmp_path: Path):
    tensors = random_tensors()
    config = {"architecture": "topk", "k": K, "rescale_acts_by_decoder_norm": True}
    path = save_6(tmp_path / "sae", tensors, normalize_activations="covariance_whitening", **config)
    m, w = doubles(_whitening(path)), doubles(tensors)
    norm = np.linalg.norm(w["W_dec"], axis=-1)
    white = (activations().double().numpy() - m["mean"]) @ m["matrix"]
    scaled = w | {"W_enc": w["W_enc"] * norm, "b_enc": w["b_enc"] * norm}
    found = features_by_hand(white, scaled, k=K) / norm @ w["W_dec"] + w["b_dec"]
    _assert_same(path, found @ m["inverse_matrix"] + m["mean"])


@pytest.mark.parametrize("missing", ["mean", "inverse_matrix"])
def test_a_whitening_that_does_not_fit_is_refused(missing: str, tmp_path: Path):
    path = save_6(tmp_path / "sae", random_tensors(), normalize_activations="covariance_whitening")
    with pytest.raises(SubjectError, match="is not folded into the weights, and no activation_wh"):
        load(path)
    parts = _whitening(path)
    (path / "activation_scaler.json").write_text('{"has_whitening": false}')
    with pytest.raises(SubjectError, match="is not folded into the weights, and no activation_wh"):
        load(path)
    (path / "activation_scaler.json").write_text('{"has_whitening": true}')
    parts.pop(missing)
    save_file(parts, path / "activation_whitening.safetensors")
    with pytest.raises(SubjectError, match=r"activation_whitening\.safetensors: expected"):
        load(path)
    save_file(parts | {missing: torch.zeros(3)}, path / "activation_whitening.safetensors")
    with pytest.raises(SubjectError, match=rf"{missing} is \(3,\)"):
        load(path)


def test_a_scaled_transcoder_is_refused(tmp_path: Path):
    config = {"architecture": "transcoder", "d_out": D, "apply_b_dec_to_input": False}
    hooks = {"hook_name": "blocks.0.mlp.hook_in", "hook_name_out": "blocks.0.hook_mlp_out"}
    path = save_6(tmp_path / "sae", random_tensors(), **SCALED, **config, metadata=hooks)
    with pytest.raises(SubjectError, match="a transcoder with normalize_activations"):
        load(path, norm_factor=FACTOR)
    assert load(path, norm_factor="folded").metadata.input_hook == "blocks.0.mlp.hook_in"


@pytest.mark.parametrize(
    ("architecture", "more"),
    [("matching_pursuit", {"residual_threshold": 1.5, "max_iterations": 6}),
     ("topk", {"k": K, "rescale_acts_by_decoder_norm": True}), ("abstopk", {"k": K})],
)  # fmt: skip
def test_every_architecture_folds_to_what_it_gives_on_scaled_activations(
    architecture: str, more: dict[str, Any], tmp_path: Path
):
    tensors = random_tensors()
    if architecture == "matching_pursuit":
        tensors = {n: tensors[n] for n in ("W_dec", "b_dec")}
        tensors["W_dec"] /= tensors["W_dec"].norm(dim=-1, keepdim=True)
    config = {"architecture": architecture, **more}
    trained = load(save_6(tmp_path / "trained", tensors, **config)).sae
    expected = (trained.decode(trained.encode(FACTOR * activations())) / FACTOR).detach()
    _assert_same(
        save_6(tmp_path / "sae", tensors, **SCALED, **config), expected.numpy(), norm_factor=FACTOR
    )


@pytest.mark.parametrize(
    ("version", "kind", "noted"),
    [("6.20.0", SCALED["normalize_activations"], True), ("6.20.0", "none", False),
     ("6.54.12", SCALED["normalize_activations"], False)],
)  # fmt: skip
def test_a_threshold_that_saelens_left_unfolded_is_noted(version, kind, noted: bool, tmp_path):
    metadata = {
        "hook_name": "blocks.1.hook_resid_pre", "sae_lens_version": version,
        "sae_lens_training_version": version, "training_architecture": "batchtopk",
        "training_architecture_details": {"rescale_acts_by_decoder_norm": True},
    }  # fmt: skip
    tensors = random_tensors("threshold")
    path = save_6(tmp_path / "sae", tensors, architecture="jumprelu", metadata=metadata)
    (path / "runner_cfg.json").write_text(json.dumps({"sae": {"normalize_activations": kind}}))
    assert any("left the BatchTopK threshold out" in n for n in load(path).metadata.notes) == noted
