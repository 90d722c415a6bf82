"""Gemma Scope and Llama Scope directories, through SAELens' converters and without the hub."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from saebench.errors import SubjectError
from saebench.formats.converted import CONVERTED
from saebench.options import Overrides
from saebench.subjects.loading import load_subject
from saebench.subjects.references import find_subjects
from saebench.subjects.sae import Subject

D, FEATURES = 16, 48


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """Fail whatever would ask the hub."""
    import huggingface_hub
    import requests
    from sae_lens.loading import pretrained_sae_loaders as loaders

    def asked(*_, **__):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", asked)
    monkeypatch.setattr(loaders, "hf_hub_download", asked)
    monkeypatch.setattr(requests, "get", asked)


def _x(width: int = D) -> torch.Tensor:
    return torch.randn(20, width, generator=torch.Generator().manual_seed(1))


def _weights(d: int = D, features: int = FEATURES) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"w_enc": (d, features), "w_dec": (features, d), "b_enc": (features,), "b_dec": (d,),
              "threshold": (features,)}  # fmt: skip
    made = {n: torch.randn(s, generator=generator) / d**0.5 for n, s in shapes.items()}
    return made | {"threshold": made["threshold"].abs()}


def _jumprelu(x: torch.Tensor, w: dict[str, torch.Tensor]) -> np.ndarray:
    """Return the formula, x̂ = W_dec·(pre where pre > θ) + b_dec, in float64."""
    e = {n: t.double().numpy() for n, t in w.items()}
    pre = x.double().numpy() @ e["w_enc"] + e["b_enc"]
    return np.where(pre > e["threshold"], np.maximum(pre, 0), 0) @ e["w_dec"] + e["b_dec"]


def _load(path: Path, **overrides: Any) -> Subject:
    [reference] = find_subjects([str(path)])
    return load_subject(reference, overrides=Overrides(**overrides), device="cpu")


def _gemma_scope_2(root: Path, name: str, **more: torch.Tensor) -> Path:
    path = root / "google" / "gemma-scope-2-270m-pt" / name
    path.mkdir(parents=True)
    save_file(_weights() | more, path / "params.safetensors")
    (path / "config.json").write_text(
        json.dumps(
            {
                "architecture": "jump_relu",
                "model_name": "gemma-v3-270m-pt",
                "hf_hook_point_in": "model.layers.3.pre_feedforward_layernorm.output",
                "hf_hook_point_out": "model.layers.3.post_feedforward_layernorm.output",
                "affine_connection": "affine_skip_connection" in more,
            }
        )
    )
    return path


@pytest.mark.parametrize(
    ("name", "hook"),
    [
        ("resid_post/layer_3_width_16k_l0_medium", "blocks.3.hook_resid_post"),
        ("attn_out/layer_3_width_16k_l0_big", "blocks.3.attn.hook_z"),
        ("mlp_out/layer_3_width_16k_l0_small", "blocks.3.hook_mlp_out"),
    ],
)
def test_gemma_scope_2_is_its_formula_at_the_hook_of_its_path(name, hook, tmp_path: Path):
    subject = _load(_gemma_scope_2(tmp_path, name))
    found = subject.reconstruct(_x())
    np.testing.assert_allclose(found.x_hat.numpy(), _jumprelu(_x(), _weights()), atol=1e-5)
    metadata = subject.metadata
    assert (metadata.hook, metadata.model_name) == (hook, "google/gemma-3-270m")
    assert subject.architecture == "jumprelu"


def test_a_gemma_scope_2_transcoder_reads_where_its_configuration_says(tmp_path: Path):
    skip = torch.randn(D, D, generator=torch.Generator().manual_seed(3))
    name = "transcoder/layer_3_width_16k_l0_big_affine"
    subject = _load(_gemma_scope_2(tmp_path, name, affine_skip_connection=skip))
    assert subject.metadata.hook == "blocks.3.hook_mlp_out"
    assert subject.metadata.input_hook == "model.layers.3.pre_feedforward_layernorm.output"
    expected = _jumprelu(_x(), _weights()) + (_x() @ skip).double().numpy()
    np.testing.assert_allclose(subject.reconstruct(_x()).x_hat.numpy(), expected, atol=1e-5)


def test_a_hugging_face_cache_is_read_by_its_own_names(tmp_path: Path):
    cached = tmp_path / "models--google--gemma-scope-2-270m-pt" / "snapshots" / "0123abcd"
    path = _gemma_scope_2(tmp_path / "made", "resid_post/layer_3_width_16k_l0_medium")
    (cached / "resid_post").mkdir(parents=True)
    path.rename(cached / "resid_post" / path.name)
    subject = _load(cached / "resid_post" / path.name)
    assert subject.metadata.hook == "blocks.3.hook_resid_post"


def test_gemma_scope_is_its_formula_at_the_hook_of_its_path(tmp_path: Path):
    weights = _weights(2048, 4096)  # SAELens takes the sizes from the names
    path = tmp_path / "gemma-scope-2b-pt-att" / "layer_5" / "width_4k" / "average_l0_20"
    path.mkdir(parents=True)
    np.savez(path / "params.npz", **{n: t.numpy() for n, t in weights.items()})
    subject = _load(path)
    found = subject.reconstruct(_x(2048)).x_hat
    np.testing.assert_allclose(found.numpy(), _jumprelu(_x(2048), weights), atol=1e-4)
    assert subject.metadata.hook == "blocks.5.attn.hook_z"
    assert subject.metadata.model_name == "gemma-2-2b"
    assert subject.metadata.training_context == 1024


def _llama_scope(root: Path, norm: float) -> tuple[Path, dict[str, torch.Tensor]]:
    w = {n: t.bfloat16() for n, t in _weights().items()}
    path = root / "Llama3_1-8B-Base-L5R-8x"
    (path / "checkpoints").mkdir(parents=True)
    linear = {"encoder.weight": w["w_enc"].T.contiguous(), "encoder.bias": w["b_enc"],
              "decoder.weight": w["w_dec"].T.contiguous(), "decoder.bias": w["b_dec"]}  # fmt: skip
    save_file(linear, path / "checkpoints" / "final.safetensors")
    told = {
        "d_model": D, "d_sae": FEATURES, "hook_point_in": "blocks.5.hook_resid_post",
        "jump_relu_threshold": 0.3, "dataset_average_activation_norm": {"in": norm},
    }  # fmt: skip
    (path / "hyperparams.json").write_text(json.dumps(told))
    return path, w


def test_llama_scope_reads_and_gives_activations_of_norm_root_d(tmp_path: Path):
    path, w = _llama_scope(tmp_path, norm=2.0)
    subject, factor = _load(path), D**0.5 / 2.0
    threshold = torch.full((FEATURES,), 0.3 * factor)
    expected = _jumprelu(_x() * factor, w | {"threshold": threshold}) / factor
    found = subject.reconstruct(_x()).x_hat
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)
    assert subject.metadata.hook == "blocks.5.hook_resid_post"
    assert next(subject.sae.parameters()).dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"hook_point_out": "blocks.5.hook_mlp_out"},
            "a transcoder, from blocks.5.hook_resid_post",
        ),
        (
            {"act_fn": "topk", "top_k": 50},
            "act_fn is 'topk'; Llama Scope's SAEs are read only",
        ),
        ({"apply_decoder_bias_to_pre_encoder": True}, "apply_decoder_bias_to_pre_encoder is True"),
        ({"norm_activation": "token-wise"}, "norm_activation is 'token-wise'"),
        ({"use_glu_encoder": True}, "use_glu_encoder is True"),
        ({"dataset_average_activation_norm": {"in": 2.0, "out": 3.0}}, "2.0 at the SAE's input"),
        ({"dataset_average_activation_norm": {"in": 0}}, "expected dataset_average_activation"),
    ],
)
def test_a_llama_scope_that_computes_something_else_is_refused(change, said: str, tmp_path: Path):
    path, _ = _llama_scope(tmp_path, norm=2.0)
    told = json.loads((path / "hyperparams.json").read_text())
    (path / "hyperparams.json").write_text(json.dumps(told | change))
    with pytest.raises(SubjectError, match=said):
        find_subjects([str(path)])


def test_the_hyperparameters_as_published_are_read(tmp_path: Path):
    path, _ = _llama_scope(tmp_path, norm=2.0)
    told = json.loads((path / "hyperparams.json").read_text())
    told |= {
        "hook_point_out": told["hook_point_in"], "act_fn": "jumprelu", "top_k": 50,
        "use_decoder_bias": True, "apply_decoder_bias_to_pre_encoder": False,
        "norm_activation": "dataset-wise", "decoder_exactly_fixed_norm": False,
        "dataset_average_activation_norm": {"in": 2.0, "out": 2.0},
    }  # fmt: skip
    before = _load(path).reconstruct(_x()).x_hat
    (path / "hyperparams.json").write_text(json.dumps(told))
    torch.testing.assert_close(_load(path).reconstruct(_x()).x_hat, before)


def test_the_options_go_over_what_the_path_says(tmp_path: Path):
    path = _gemma_scope_2(tmp_path, "resid_post/layer_3_width_16k_l0_medium")
    metadata = _load(path, hook="blocks.1.hook_mlp_out", training_context=32).metadata
    assert (metadata.hook, metadata.training_context) == ("blocks.1.hook_mlp_out", 32)


@pytest.mark.parametrize("loader", CONVERTED[:2], ids=lambda loader: loader.name)
def test_a_path_without_the_published_names_says_what_they_are(loader, tmp_path: Path):
    (tmp_path / loader.config_file).write_bytes(b"")
    with pytest.raises(SubjectError, match=f"keep the names as published: {loader.example}"):
        find_subjects([str(tmp_path)])


@pytest.mark.parametrize("name", ["resid_post", "layer_3_width_16k", "resid_post/width_16k"])
def test_a_path_that_says_too_little_is_refused(name: str, tmp_path: Path):
    path = _gemma_scope_2(tmp_path, name)
    with pytest.raises(SubjectError, match="cannot convert this Gemma Scope 2 directory"):
        _load(path)


def test_damaged_weights_are_refused(tmp_path: Path):
    path = _gemma_scope_2(tmp_path, "resid_post/layer_3_width_16k_l0_medium")
    (path / "params.safetensors").write_bytes(b"\x08")
    with pytest.raises(SubjectError, match=r"params\.safetensors: truncated"):
        _load(path)


def test_an_npz_with_a_pickle_inside_is_refused(tmp_path: Path):
    path = tmp_path / "gemma-scope-2b-pt-res" / "layer_5" / "width_4k" / "average_l0_20"
    path.mkdir(parents=True)
    np.savez(path / "params.npz", w_enc=np.array([object()]))
    with pytest.raises(SubjectError, match="pickled objects"):
        _load(path)


def test_saelens_is_left_as_it_was(tmp_path: Path):
    from sae_lens.loading import pretrained_sae_loaders as loaders

    before = loaders.hf_hub_download, loaders.get_safetensors_tensor_shapes
    path = _gemma_scope_2(tmp_path, "resid_post/layer_3_width_16k_l0_medium")
    _load(path)
    (path / "params.safetensors").unlink()
    save_file({"w_enc": load_file(_gemma_scope_2(tmp_path / "b", "resid_post/layer_1_w") /
                                  "params.safetensors")["w_enc"]},
              path / "params.safetensors")  # fmt: skip
    with pytest.raises(SubjectError):
        _load(path)
    assert before == (loaders.hf_hub_download, loaders.get_safetensors_tensor_shapes)
