"""dictionary_learning's directories, against its formulas written out in float64."""

import contextlib
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import saebench
from saebench.errors import SubjectError
from saebench.formats.archives import pickled_number, pickled_tensors
from saebench.formats.dictionary_learning import CLASSES
from saebench.options import Overrides
from saebench.subjects.loading import load_subject
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


def _checkpoint(root: Path, name: str, step: int, **tensors: torch.Tensor) -> Path:
    """Write a run, and a checkpoint of it as trainSAE does; return the checkpoint."""
    run = _saved(root, name)
    (run / "checkpoints").mkdir(exist_ok=True)
    torch.save(_state(name) | tensors, run / "checkpoints" / f"ae_{step}.pt")
    return run / "checkpoints" / f"ae_{step}.pt"


@pytest.mark.parametrize("name", STATES)
def test_a_checkpoint_is_read_as_the_final_weights_are(name: str, tmp_path: Path):
    found = _load(_checkpoint(tmp_path / "trainer_0", name, 100)).reconstruct(_x())
    np.testing.assert_allclose(found.x_hat.numpy(), _by_hand(name), rtol=1e-4, atol=1e-5)


def test_checkpoints_are_saes_of_their_own_by_their_runs_names(tmp_path: Path):
    for run in ("trainer_0", "trainer_1"):
        for step in (100, 200):
            last = _checkpoint(tmp_path / run, "BatchTopKSAE", step)
    (last.parent / "notes.txt").write_text("")
    found = find_subjects([str(tmp_path / "*" / "checkpoints" / "*.pt"), str(last)])
    steps = ("trainer_0", 100), ("trainer_0", 200), ("trainer_1", 100), ("trainer_1", 200)
    assert [r.id for r in found] == [
        f"{tmp_path.name}/{run}/checkpoints/ae_{step}" for run, step in steps
    ]
    with pytest.raises(SubjectError, match=r"2 checkpoints lie in it \(ae_100\.pt, ae_200\.pt\)"):
        find_subjects([str(last.parent)])


def test_a_checkpoint_is_judged(tiny, tmp_path: Path):
    path = _checkpoint(tmp_path / "trainer_0", "AutoEncoder", 100)
    run = saebench.judge(
        str(path), tiny.model, tiny.texts, properties=["fidelity"], sequences=4,
        hook="blocks.0.hook_resid_post",
    )  # fmt: skip
    assert run.cases[0].metrics
    assert run.saes[0].id.endswith("trainer_0/checkpoints/ae_100")


def test_a_file_of_the_directory_means_the_directory(tmp_path: Path):
    path = _saved(tmp_path / "run")
    for name in ("ae.pt", "config.json"):
        assert [r.directory for r in find_subjects([str(path / name)])] == [path]


def test_the_k_of_the_weights_goes_over_the_configurations(tmp_path: Path):
    path = _saved(tmp_path / "ae", "AutoEncoderTopK", k=2)
    subject = _load(path)
    assert subject.config["k"] == K
    assert subject.reconstruct(_x()).l0.max() == K
    assert any(f"k is {K}, as the weights say" in note for note in subject.metadata.notes)


def test_converted_weights_tell_their_k_too(tmp_path: Path):
    path = _saved(tmp_path / "ae", "AutoEncoderTopK", k=2)
    save_file(_state("AutoEncoderTopK"), path / "ae.safetensors")
    assert _load(path).reconstruct(_x()).l0.max() == K


def test_weights_without_a_k_have_the_configurations(tmp_path: Path):
    path = _saved(tmp_path / "ae", "AutoEncoderTopK", k=3)
    state = _state("AutoEncoderTopK")
    torch.save({n: t for n, t in state.items() if n not in ("k", "threshold")}, path / "ae.pt")
    assert _load(path).reconstruct(_x()).l0.max() == 3


def _untold(path: Path, *keys: str, **changes: Any) -> Path:
    """Take keys out of config.json's trainer, as those of before July 2024 have none."""
    told = json.loads((path / "config.json").read_text())
    told["trainer"] = {k: v for k, v in told["trainer"].items() if k not in keys} | changes
    (path / "config.json").write_text(json.dumps(told))
    return path


@pytest.mark.parametrize(
    "name", [n for n in STATES if n not in ("AutoEncoderTopK", "BatchTopKSAE")]
)
def test_the_tensors_tell_class_and_sizes_where_nothing_else_does(name: str, tmp_path: Path):
    path = _untold(_saved(tmp_path / "ae", name), "dict_class", "activation_dim", "dict_size")
    subject = _load(path)
    np.testing.assert_allclose(
        subject.reconstruct(_x()).x_hat.numpy(), _by_hand(name), rtol=1e-4, atol=1e-5
    )
    assert f"config.json names no class: {name} by the weights' tensors" in subject.metadata.notes


@pytest.mark.parametrize(
    ("trainer", "name"),
    [("TopKTrainer", "AutoEncoderTopK"), ("TrainerTopK", "AutoEncoderTopK"),
     ("BatchTopKTrainer", "BatchTopKSAE")],
)  # fmt: skip
def test_of_classes_with_equal_tensors_the_trainer_tells(trainer: str, name: str, tmp_path: Path):
    path = _saved(tmp_path / "ae", name)
    with pytest.raises(SubjectError, match="are of AutoEncoderTopK and of BatchTopKSAE; write"):
        find_subjects([str(_untold(path, "dict_class"))])
    found = _load(_untold(path, trainer_class=trainer)).reconstruct(_x())
    np.testing.assert_allclose(found.x_hat.numpy(), _by_hand(name), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("told", "weights", "said"),
    [
        ("AutoEncoder", "GatedAutoEncoder", "are of GatedAutoEncoder"),
        ("AutoEncoderNew", "AutoEncoder", "are of AutoEncoder"),
        ("AutoEncoder", "BatchTopKSAE", "are of AutoEncoderTopK or BatchTopKSAE"),
        ("MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder", "are of JumpReluAutoEncoder"),
        ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE", "are of MatryoshkaBatchTopKSAE"),
    ],
)
def test_a_class_that_the_tensors_contradict_is_refused(told, weights, said: str, tmp_path: Path):
    path = _saved(tmp_path / "ae", told)
    torch.save(_state(weights), path / "ae.pt")
    with pytest.raises(SubjectError, match=rf"dict_class '{told}', but the weights .* {said}"):
        find_subjects([str(path)])


def test_what_reads_in_and_writes_out_is_a_transcoder(tmp_path: Path):
    path = _saved(tmp_path / "ae", buffer={"io": "in_and_out"}, submodule_name="mlp_out_layer_1")
    with pytest.raises(SubjectError, match="--sae-hook .* and --sae-hook-out of its output"):
        _load(path)
    with pytest.raises(SubjectError, match=r"no hook_name_out.*--sae-hook-out"):
        _load(path, hook="blocks.1.mlp.hook_in")
    subject = _load(path, hook="blocks.1.mlp.hook_in", hook_out="blocks.1.hook_mlp_out")
    assert subject.metadata.input_hook == "blocks.1.mlp.hook_in"
    found = subject.reconstruct(_x()).x_hat.numpy()
    np.testing.assert_allclose(found, _by_hand("AutoEncoder"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("buffer", "trainer"), [({"layer": 1}, {}), ({"io": "out"}, {"trainer_class": "TranscoderX"})]
)
def test_a_buffer_of_heads_and_a_trainer_of_transcoders_leave_the_hook_open(
    buffer, trainer, tmp_path: Path
):
    path = _saved(tmp_path / "ae", buffer=buffer, **trainer)
    with pytest.raises(SubjectError, match=r"config\.json: metadata has no hook_name"):
        _load(path)


def test_a_side_that_is_none_is_refused(tmp_path: Path):
    path = _saved(tmp_path / "ae", buffer={"io": "both"})
    with pytest.raises(SubjectError, match="buffer.io must be in, out or in_and_out, found 'both'"):
        find_subjects([str(path)])


def test_a_pickles_header_says_what_torch_loads(tmp_path: Path):
    state = _state("BatchTopKSAE") | {"h": torch.ones(3, 2).half(), "one": torch.tensor([7.5])}
    torch.save(state, tmp_path / "a.pt")
    found = pickled_tensors(tmp_path / "a.pt")
    assert {n: t.shape for n, t in found.items()} == {n: tuple(t.shape) for n, t in state.items()}
    numbers = {n: pickled_number(tmp_path / "a.pt", t) for n, t in found.items()}
    assert (numbers["k"], numbers["one"], numbers["h"]) == (K, 7.5, None)
    assert numbers["threshold"] == pytest.approx(THRESHOLD)


def _passed_through(tiny, ids: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return what block 1's MLP reads and writes at every position but 0, from transformers."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(tiny.model).eval()
    seen: list[torch.Tensor] = []
    model.model.layers[1].mlp.register_forward_hook(lambda _, x, y: seen.extend((x[0], y)))
    with torch.no_grad():
        model(ids)
    reads, writes = (x[:, 1:].reshape(-1, D).double().numpy() for x in seen)
    return reads, writes


def test_a_transcoder_is_judged_by_what_it_predicts(tiny, tmp_path: Path):
    from transformers import AutoTokenizer

    path = _saved(tmp_path / "ae", buffer={"io": "in_and_out"})
    run = saebench.judge(
        str(path), tiny.model, tiny.texts, properties=["fidelity"], sequences=6, context=12,
        hook="blocks.1.mlp.hook_in", hook_out="blocks.1.hook_mlp_out", prepend_bos=True,
        order="file",
    )  # fmt: skip
    tokenizer: Any = AutoTokenizer.from_pretrained(tiny.model)
    lines = Path(tiny.texts).read_text().splitlines()[:6]
    rows = [tokenizer(json.loads(t)["text"], add_special_tokens=False).input_ids for t in lines]
    x, y = _passed_through(tiny, torch.tensor([[1, *row][:12] for row in rows]))
    w = {n: t.double().numpy() for n, t in _state("AutoEncoder").items()}
    features = np.maximum((x - w["bias"]) @ w["encoder.weight"].T + w["encoder.bias"], 0)
    left = y - (features @ w["decoder.weight"].T + w["bias"])
    [found] = [m.value for m in run.cases[0].metrics if m.name == "fidelity.explained_variance"]
    assert found == pytest.approx(1 - (left**2).sum() / ((y - y.mean(0)) ** 2).sum(), rel=1e-4)


@pytest.mark.parametrize("named", ["torch._utils\n_rebuild_tensor_v2", "collections\nOrderedDict"])
def test_a_pickle_that_would_change_what_stands_for_its_names_is_refused(named, tmp_path: Path):
    setting = b"}X\x04\x00\x00\x00itemX\x01\x00\x00\x00as"  # {"item": "a"}
    for state in (setting, b"N" + setting + b"\x86"):  # as attributes, and as slots
        pickled = b"\x80\x02c" + named.encode() + b"\n" + state + b"b."
        with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
            archive.writestr("a/data.pkl", pickled)
        with pytest.raises(SubjectError, match=r"its pickle is damaged .* refused"):
            pickled_tensors(tmp_path / "a.pt")
    torch.save(_state("AutoEncoder"), tmp_path / "b.pt")
    assert set(pickled_tensors(tmp_path / "b.pt")) == set(STATES["AutoEncoder"])
