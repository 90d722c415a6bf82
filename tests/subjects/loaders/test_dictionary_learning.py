"""dictionary_learning's directories, against its formulas written out in float64."""

import contextlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import saebench
from saebench.errors import SubjectError
from saebench.subjects.loaders.dictionary_learning import CLASSES
from saebench.subjects.loading import load_subject
from saebench.subjects.metadata import Overrides
from saebench.subjects.references import find_subjects
from saebench.subjects.sae import Subject

D, FEATURES, K, THRESHOLD = 16, 48, 5, 0.7
LINEAR = {"encoder.weight": (FEATURES, D), "decoder.weight": (D, FEATURES)}
MATRICES = {"W_enc": (D, FEATURES), "W_dec": (FEATURES, D), "b_enc": (FEATURES,), "b_dec": (D,)}
# What each class's state_dict holds.
STATES: dict[str, dict[str, tuple[int, ...]]] = {
    "AutoEncoder": LINEAR | {"bias": (D,), "encoder.bias": (FEATURES,)},
    "AutoEncoderNew": LINEAR | {"encoder.bias": (FEATURES,), "decoder.bias": (D,)},
    "GatedAutoEncoder": LINEAR
    | {"decoder_bias": (D,)}
    | dict.fromkeys(("r_mag", "gate_bias", "mag_bias"), (FEATURES,)),
    "AutoEncoderTopK": LINEAR | {"b_dec": (D,), "encoder.bias": (FEATURES,), "threshold": ()},
    "BatchTopKSAE": LINEAR | {"b_dec": (D,), "encoder.bias": (FEATURES,), "threshold": ()},
    "MatryoshkaBatchTopKSAE": MATRICES | {"threshold": ()},
    "JumpReluAutoEncoder": MATRICES | {"threshold": (FEATURES,)},
}


def _x(rows: int = 60) -> torch.Tensor:
    return torch.randn(rows, D, generator=torch.Generator().manual_seed(1))


def _state(name: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = {n: torch.randn(s, generator=generator) / 2 for n, s in STATES[name].items()}
    if "threshold" in state:
        state["threshold"] = THRESHOLD + 0 * state["threshold"]
    if name in ("AutoEncoderTopK", "BatchTopKSAE"):
        state["k"] = torch.tensor(K)
    return state


def _saved(root: Path, name: str = "AutoEncoder", *, buffer: Any = None, **trainer: Any) -> Path:
    """Write what dictionary_learning's trainSAE writes, with random weights."""
    root.mkdir(parents=True, exist_ok=True)
    torch.save(_state(name), root / "ae.pt")
    told = {
        "dict_class": name, "activation_dim": D, "dict_size": FEATURES, "k": K, "layer": 1,
        "lm_name": "lab/model", "submodule_name": "resid_post_layer_1",
    }  # fmt: skip
    config = {"trainer": told | trainer, "buffer": {"ctx_len": 12, "io": "out"} | (buffer or {})}
    (root / "config.json").write_text(json.dumps(config))
    return root


def _load(path: Path, **overrides: Any) -> Subject:
    [reference] = find_subjects([str(path)])
    return load_subject(reference, overrides=Overrides(**overrides), device="cpu")


def _by_hand(name: str) -> np.ndarray:
    """Encode and decode token by token, each class as dictionary_learning's own does."""
    w = {n: t.double().numpy() for n, t in _state(name).items()}
    encoder = w["W_enc"] if "W_enc" in w else w["encoder.weight"].T
    decoder = w["W_dec"] if "W_dec" in w else w["decoder.weight"].T
    centre = next(w[n] for n in ("b_dec", "bias", "decoder_bias", "decoder.bias") if n in w)
    out = []
    for x in _x().double().numpy():
        bare = x if name in ("AutoEncoderNew", "JumpReluAutoEncoder") else x - centre
        out.append(_features(name, bare @ encoder, w) @ decoder + centre)
    return np.array(out)


def _features(name: str, product: np.ndarray, w: dict[str, np.ndarray]) -> np.ndarray:
    if name == "GatedAutoEncoder":
        size = np.maximum(np.exp(w["r_mag"]) * product + w["mag_bias"], 0)
        return (product + w["gate_bias"] > 0) * size
    features = np.maximum(product + w.get("encoder.bias", w.get("b_enc")), 0)
    if name == "AutoEncoderTopK":
        return features * (features >= np.sort(features)[-K])
    return features * (features > w["threshold"]) if "threshold" in w else features


def test_every_class_that_is_read_is_tested():
    assert set(STATES) == set(CLASSES)


@pytest.mark.parametrize("name", STATES)
def test_every_class_gives_what_its_formula_gives(name: str, tmp_path: Path):
    found = _load(_saved(tmp_path / "ae", name)).reconstruct(_x())
    np.testing.assert_allclose(found.x_hat.numpy(), _by_hand(name), rtol=1e-4, atol=1e-5)
    assert 0 < found.l0.mean() < FEATURES


@pytest.mark.parametrize("name", ["AutoEncoder", "GatedAutoEncoder", "BatchTopKSAE"])
def test_saelens_own_converter_gives_the_same(name: str, tmp_path: Path, monkeypatch):
    from sae_lens import SAE
    from sae_lens.loading import pretrained_sae_loaders as loaders

    path = _saved(tmp_path / "ae", name)
    monkeypatch.setattr(
        loaders, "hf_hub_download", lambda filename, **_: str(path / Path(filename).name)
    )

    def convert(*_, **__):
        return loaders.dictionary_learning_sae_huggingface_loader_1("repo", "folder")[:2]

    theirs = SAE.load_from_disk(path, converter=convert)
    torch.testing.assert_close(_load(path).reconstruct(_x()).x_hat, theirs(_x()))


def test_hook_model_and_context_come_from_the_configuration(tmp_path: Path):
    metadata = _load(_saved(tmp_path / "ae")).metadata
    assert (metadata.hook, metadata.model_name) == ("blocks.1.hook_resid_post", "lab/model")
    assert metadata.training_context == 12


@pytest.mark.parametrize(
    ("name", "hook"),
    [
        ("resid_post_layer_12", "blocks.12.hook_resid_post"),
        ("attn_out_layer_3", "blocks.3.hook_attn_out"),
        ("mlp_out_2", "blocks.2.hook_mlp_out"),
    ],
)
def test_the_submodules_name_is_the_hook(name: str, hook: str, tmp_path: Path):
    assert _load(_saved(tmp_path / "ae", submodule_name=name)).metadata.hook == hook


def test_without_a_submodule_the_layers_output_is_taken_and_noted(tmp_path: Path):
    metadata = _load(_saved(tmp_path / "ae", submodule_name=None)).metadata
    assert metadata.hook == "blocks.1.hook_resid_post"
    assert any("names no submodule" in note for note in metadata.notes)


@pytest.mark.parametrize(
    "change", [{"submodule_name": "something"}, {"buffer": {"io": "in"}}, {"layer": None,
                                                                         "submodule_name": None}]
)  # fmt: skip
def test_a_hook_that_is_in_doubt_must_be_given(change: dict[str, Any], tmp_path: Path):
    path = _saved(tmp_path / "ae", **change)
    with pytest.raises(SubjectError, match=r"config\.json: metadata has no hook_name.*--sae-hook"):
        _load(path)
    assert _load(path, hook="blocks.0.hook_mlp_out").metadata.hook == "blocks.0.hook_mlp_out"


def test_a_directory_is_judged(tiny, tmp_path: Path):
    path = _saved(tmp_path / "ae", "BatchTopKSAE", submodule_name="resid_post_layer_0")
    run = saebench.judge(str(path), tiny.model, tiny.texts, properties=["fidelity"], sequences=4)
    assert (run.saes[0].hook, run.saes[0].architecture) == ("blocks.0.hook_resid_post", "jumprelu")
    assert run.cases[0].metrics


class _Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("how", ["plain", "inside", "torch"])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(how, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path = _saved(tmp_path / "ae")
    state: Any = _state("AutoEncoder") | {"bias": _Bomb()} if how != "plain" else _Bomb()
    if how == "torch":
        torch.save(state, path / "ae.pt", pickle_protocol=protocol)
    else:
        (path / "ae.pt").write_bytes(pickle.dumps(state, protocol=protocol))
    with pytest.raises(SubjectError, match=r"ae\.pt: .*refused"):
        _load(path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a pickle", b"\x80\x02."])
def test_a_damaged_file_is_refused(content: bytes, tmp_path: Path):
    path = _saved(tmp_path / "ae")
    (path / "ae.pt").write_bytes(content)
    with pytest.raises(SubjectError, match=r"ae\.pt"):
        _load(path)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 3000), byte=st.integers(0, 255))
def test_a_changed_byte_is_harmless_or_an_error_of_ours(at: int, byte: int, tmp_path: Path):
    path = tmp_path / "ae"
    if not path.exists():
        torch.save(
            _state("AutoEncoder"), _saved(path) / "whole.pt", _use_new_zipfile_serialization=False
        )
    content = bytearray((path / "whole.pt").read_bytes())
    content[at] = byte
    (path / "ae.pt").write_bytes(content)
    with contextlib.suppress(SubjectError):
        assert _load(path).d_in == D


def test_a_truncated_file_is_refused(tmp_path: Path):
    path = _saved(tmp_path / "ae")
    (path / "ae.pt").write_bytes((path / "ae.pt").read_bytes()[:-700])
    with pytest.raises(SubjectError, match=r"ae\.pt: truncated"):
        _load(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: list(s.values()), "expected a state dict, found list"),
        (lambda s: s | {"bias": 3.0}, "expected a state dict"),
        (lambda s: {n: t for n, t in s.items() if n != "encoder.weight"}, "has no W_enc, found"),
        (lambda s: s | {"decoder.weight": s["decoder.weight"].T.contiguous()}, "transposed"),
        (lambda s: s | {"encoder.bias": torch.zeros(3)}, "does not fit config.json"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change, said: str, tmp_path: Path):
    path = _saved(tmp_path / "ae")
    torch.save(change(_state("AutoEncoder")), path / "ae.pt")
    with pytest.raises(SubjectError, match=said):
        _load(path)


def test_a_batchtopk_threshold_that_was_never_learned_is_refused(tmp_path: Path):
    path = _saved(tmp_path / "ae", "BatchTopKSAE")
    torch.save(_state("BatchTopKSAE") | {"threshold": torch.tensor(-1.0)}, path / "ae.pt")
    with pytest.raises(SubjectError, match="threshold is -1: it was saved before"):
        _load(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dict_class": "CrossCoder"}, "dict_class 'CrossCoder' is not read"),
        ({"dict_class": "AutoEncoderTopk"}, "did you mean 'AutoEncoderTopK'"),
        ({"dict_class": None}, "dict_class None is not read"),
        ({"activation_dim": None}, "activation_dim must be a positive integer"),
        ({"dict_size": -1}, "dict_size must be a positive integer"),
        ({"dict_class": "AutoEncoderTopK", "k": 0}, "k must be a positive integer"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(change, said: str, tmp_path: Path):
    with pytest.raises(SubjectError, match=said):
        find_subjects([str(_saved(tmp_path / "ae", **change))])


@pytest.mark.parametrize("config", [{"trainer": []}, {"trainer": {}, "buffer": 3}, {}])
def test_a_configuration_without_its_parts_is_refused(config: Any, tmp_path: Path):
    path = _saved(tmp_path / "ae")
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SubjectError, match=r"config\.json"):
        find_subjects([str(path)])
