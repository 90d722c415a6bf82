"""What comes from a stranger is data: none of it runs, phones home, or takes what it claims."""

import json
import os
import pickle
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from saebench.errors import HostError, SaebenchError, SubjectError
from saebench.formats.converted import WEIGHTS_ONLY, checked_downloads
from saebench.formats.layouts import BUILT_IN
from saebench.options import Overrides
from saebench.subjects.host_loading import load_host
from saebench.subjects.loading import load_subject
from saebench.subjects.references import find_subjects
from saebench.telemetry import OFF

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [*(ROOT / "saebench").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
OVERRIDES = Overrides(hook="blocks.0.hook_resid_pre", training_context=16)
OPENS = re.compile(r"pickle\.loads?\(|(?<![.\w])(eval|exec)\(|yaml\.load\(|joblib")
CONFIG: dict[str, Any] = {
    "d_in": 4, "d_sae": 8, "architecture": "standard", "dtype": "float32",
    "apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none",
    "metadata": {"sae_lens_version": "6.54.0", "hook_name": "blocks.0.hook_resid_pre"},
}  # fmt: skip
# Each layout: its directory, its configuration, and where its weights are.
LAYOUTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "SAELens": ("sae", {"cfg.json": CONFIG}, "sae_weights.safetensors"),
    "sparsify": ("layers.0", {"cfg.json": {"d_in": 4, "num_latents": 8, "k": 2}},
                 "sae.safetensors"),
    "dictionary_learning": ("sae", {"config.json": {
        "trainer": {"dict_class": "AutoEncoder", "activation_dim": 4, "dict_size": 8, "layer": 0}}},
        "ae.pt"),
    "dictionary_learning, converted": ("sae", {"config.json": {
        "trainer": {"dict_class": "AutoEncoder", "activation_dim": 4, "dict_size": 8, "layer": 0}}},
        "ae.safetensors"),
    "Gemma Scope": ("gemma-scope-2b-pt-res/layer_0/width_16k/average_l0_7", {}, "params.npz"),
    "Gemma Scope 2": ("google/gemma-scope-2-1b-pt/resid_post/layer_3_width_16k_l0_medium",
                      {"config.json": {"architecture": "jump_relu", "model_name": "m"}},
                      "params.safetensors"),
    "Llama Scope": ("Llama3_1-8B-Base-L5R-8x", {"hyperparams.json": {
        "d_model": 4, "d_sae": 8, "jump_relu_threshold": 0.1, "hook_point_in": "h",
        "dataset_average_activation_norm": {"in": 1.0}}}, "checkpoints/final.safetensors"),
}  # fmt: skip


class _Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


def _bombs() -> dict[str, bytes]:
    import io

    zipped, npz = io.BytesIO(), io.BytesIO()
    torch.save({"W_enc": torch.zeros(4, 8), "x": _Bomb()}, zipped)
    np.savez(npz, w_enc=np.array([_Bomb()], dtype=object))
    return {
        "a pickle": pickle.dumps(_Bomb()), "a state dict": pickle.dumps({"W_enc": _Bomb()}),
        "torch.save": zipped.getvalue(), "numpy.savez": npz.getvalue(),
    }  # fmt: skip


BOMBS = _bombs()


def _laid_out(root: Path, layout: str) -> Path:
    folder, configs, weights = LAYOUTS[layout]
    directory = root / folder
    (directory / weights).parent.mkdir(parents=True)
    for name, stated in configs.items():
        (directory / name).write_text(json.dumps(stated))
    return directory


def _load(directory: Path) -> None:
    (reference,) = find_subjects([str(directory)])
    load_subject(reference, overrides=OVERRIDES, device="cpu")


def test_every_built_in_layout_is_tried_here():
    assert {loader.name for loader in BUILT_IN} <= {name.partition(",")[0] for name in LAYOUTS}


@pytest.fixture
def _alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # what a machine may be set to


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.usefixtures("_alone")
def test_no_loader_runs_what_is_pickled_in_its_weights(layout, bomb, tmp_path):
    directory = _laid_out(tmp_path, layout)
    (directory / LAYOUTS[layout][2]).write_bytes(BOMBS[bomb])
    with pytest.raises(SubjectError, match=re.escape(Path(LAYOUTS[layout][2]).name)):
        _load(directory)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", ["sae.pt", "weights.bin", "x.pth", "x.pkl", "x.ckpt"])
@pytest.mark.usefixtures("_alone")
def test_a_pickle_of_no_layout_is_refused_unopened(name, tmp_path):
    (tmp_path / "sae").mkdir()
    (tmp_path / "sae" / "cfg.json").write_text(json.dumps(CONFIG))
    (tmp_path / "sae" / name).write_bytes(BOMBS["a pickle"])
    with pytest.raises(SubjectError, match="can run code"):
        _load(tmp_path / "sae")
    assert not (tmp_path / "exploded").exists()


def test_a_state_dict_that_was_converted_is_read_instead_of_the_pickle(tmp_path):
    directory = _laid_out(tmp_path, "dictionary_learning")
    shapes = {"encoder.weight": (8, 4), "decoder.weight": (4, 8), "encoder.bias": 8, "bias": 4}
    save_file({n: torch.zeros(s) for n, s in shapes.items()}, directory / "ae.safetensors")
    (directory / "ae.pt").write_bytes(BOMBS["a pickle"])
    _load(directory)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("bomb", ["a pickle", "torch.save", "numpy.savez"])
@pytest.mark.usefixtures("_alone")
def test_what_the_registry_downloads_is_looked_at_before_saelens_opens_it(
    bomb, tmp_path, monkeypatch
):
    from sae_lens.loading import pretrained_sae_loaders as loaders

    def fetched(*_: Any, **__: Any) -> str:
        path = tmp_path / ("params.npz" if "numpy" in bomb else "weights.pt")
        path.write_bytes(BOMBS[bomb])
        return str(path)

    monkeypatch.setattr(loaders, "hf_hub_download", fetched)
    with checked_downloads():
        assert os.environ[WEIGHTS_ONLY] == "1"
        with pytest.raises(SubjectError, match="refused|pickled objects"):
            loaders.hf_hub_download("org/repo", "weights")
    assert loaders.hf_hub_download is fetched
    assert WEIGHTS_ONLY not in os.environ
    assert not (tmp_path / "exploded").exists()


def _code(path: Path) -> str:
    return re.sub(r'"""[\s\S]*?"""', "", path.read_text(encoding="utf-8"))


def test_nothing_in_the_source_opens_a_pickle_or_trusts_remote_code():
    for path in SOURCES:
        code = _code(path)
        for call in re.findall(r"torch\.load\((?:[^()]|\([^()]*\))*\)", code):
            assert "weights_only=True" in call, path
        for call in re.findall(r"np\.load\((?:[^()]|\([^()]*\))*\)", code):
            assert "allow_pickle=False" in call, path
        assert "trust_remote_code=True" not in code, path
        assert not OPENS.search(code), path
        for call in re.findall(r"Auto\w+\.from_pretrained\((?:[^()]|\([^()]*\))*\)", code):
            assert "trust_remote_code=False" in call, path


def test_a_model_that_brings_code_is_refused_without_asking(tiny, tmp_path, monkeypatch):
    import shutil

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    model = tmp_path / "model"
    shutil.copytree(tiny.model, model)
    config = json.loads((model / "config.json").read_text())
    auto = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (model / "config.json").write_text(json.dumps(config | {"model_type": "e", "auto_map": auto}))
    stated = json.loads((model / "tokenizer_config.json").read_text())
    stated["auto_map"] = {"AutoTokenizer": ["evil.Tok", None]}
    (model / "tokenizer_config.json").write_text(json.dumps(stated))
    (model / "evil.py").write_text("from pathlib import Path\nPath('exploded').touch()\n")
    with pytest.raises(HostError, match="cannot be loaded"):
        load_host(str(model), device="cpu", dtype="float32", asked_by="--sae-model")
    assert not (tmp_path / "exploded").exists()


HUGE = 2**31 - 1
CLAIMS = {
    "SAELens": ("cfg.json", CONFIG | {"d_sae": HUGE, "d_in": HUGE}),
    "sparsify": ("cfg.json", {"d_in": 4, "num_latents": HUGE, "k": 2}),
    "dictionary_learning": ("config.json", {"trainer": {
        "dict_class": "BatchTopKSAE", "activation_dim": 4, "dict_size": HUGE, "layer": 0}}),
    "Llama Scope": ("hyperparams.json", {
        "d_model": 4, "d_sae": HUGE, "jump_relu_threshold": 0.1, "hook_point_in": "h",
        "dataset_average_activation_norm": {"in": 1.0}}),
}  # fmt: skip
WEIGHTS = {
    "SAELens": {"b_dec": (4,)},
    "sparsify": {"encoder.weight": (8, 4), "W_dec": (8, 4), "encoder.bias": (8,), "b_dec": (4,)},
    "dictionary_learning": {"encoder.weight": (8, 4), "decoder.weight": (4, 8),
                            "encoder.bias": (8,), "b_dec": (4,), "threshold": ()},
    "Llama Scope": {"encoder.weight": (8, 4), "decoder.weight": (4, 8)},
}  # fmt: skip


@pytest.mark.parametrize("layout", CLAIMS)
def test_a_claim_of_two_billion_features_takes_no_memory(layout, tmp_path):
    directory = _laid_out(tmp_path, layout)
    file, stated = CLAIMS[layout]
    (directory / file).write_text(json.dumps(stated))
    tensors = {name: torch.zeros(shape) for name, shape in WEIGHTS[layout].items()}
    weights = directory / LAYOUTS[layout][2]
    if weights.suffix == ".pt":
        torch.save(tensors, weights)
    else:
        save_file(tensors, weights)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SubjectError):
        _load(directory)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ({"W_enc": {"dtype": "F32", "shape": [4, 10**12], "data_offsets": [0, 128]}}, 128),
        ({"W_enc": {"dtype": "F32", "shape": [4, 8], "data_offsets": [0, 10**15]}}, 128),
        ({"W_enc": {"dtype": "F32", "shape": [2**62, 8], "data_offsets": [0, 0]}}, 0),
        ({"W_enc": {"dtype": "F32", "shape": [-4, -8], "data_offsets": [0, 128]}}, 128),
        ({"W_enc": {"dtype": "F32", "shape": [4, 8], "data_offsets": [0, 128]},
          "W_dec": {"dtype": "F32", "shape": [8, 4], "data_offsets": [0, 128]}}, 128),
    ],
)  # fmt: skip
def test_a_safetensors_header_that_lies_is_refused(header, data, tmp_path):
    directory = _laid_out(tmp_path, "SAELens")
    stated = json.dumps(header).encode()
    content = len(stated).to_bytes(8, "little") + stated + bytes(data)
    (directory / "sae_weights.safetensors").write_bytes(content)
    with pytest.raises(SubjectError, match=r"sae_weights\.safetensors"):
        _load(directory)


def test_an_npz_that_claims_more_than_it_holds_is_refused(tmp_path):
    import zipfile

    directory = _laid_out(tmp_path, "Gemma Scope")
    stated = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**12}, 8), }}".encode()
    head = b"\x93NUMPY\x01\x00" + (len(stated) + 1).to_bytes(2, "little") + stated + b"\n"
    with zipfile.ZipFile(directory / "params.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w_enc.npy", head + bytes(64))
    with pytest.raises(SubjectError, match="not the size of its header"):
        _load(directory)


@pytest.mark.parametrize("file", ["cfg.json", "sae_weights.safetensors"])
def test_a_pipe_in_the_place_of_a_file_is_refused_not_waited_for(file, tmp_path):
    directory = _laid_out(tmp_path, "SAELens")
    (directory / "sae_weights.safetensors").touch()
    (directory / file).unlink()
    os.mkfifo(directory / file)
    with pytest.raises(SubjectError, match="no regular file"):
        _load(directory)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"apply_b_dec_to_input": "false"}, "apply_b_dec_to_input must be bool"),
        ({"apply_b_dec_to_inpuu": True}, "did you mean 'apply_b_dec_to_input'"),
        ({"architecture": "topk"}, "k must be a positive integer, found None"),
        ({"architecture": "topk", "k": 9}, "k is 9, but there are 8 features"),
        ({"architecture": "topk", "k": 2.0}, "k must be a positive integer"),
        ({"architecture": "matching_pursuit", "max_iterations": 10**9}, "max_iterations"),
        ({"metadata": {"hook_name": "h", "to_dict": 1}}, "metadata.to_dict is not a metadata key"),
        ({"dtype": "int8"}, "dtype 'int8' is none of"),
        ({"metadata": [1]}, "metadata must be dict"),
        ({"metadata": {"hook_name": "a\x1b[2J"}}, "invisible characters"),
        ({"metadata": {"prepend_bot": False, "hook_name": "h"}}, "did you mean 'prepend_bos'"),
        ({"metadata": {"hook_name": "\ud800"}}, "half a character"),
        ({"x": json.loads("[" * 40 + "]" * 40)}, "nested more than"),
    ],
)  # fmt: skip
def test_a_value_that_no_sae_has_is_refused(change, said, tmp_path):
    directory = _laid_out(tmp_path, "SAELens")
    stated = CONFIG | change
    if "apply_b_dec_to_inpuu" in change:
        del stated["apply_b_dec_to_input"]
    (directory / "cfg.json").write_text(json.dumps(stated))
    shapes = {"W_enc": (4, 8), "W_dec": (8, 4), "b_enc": (8,), "b_dec": (4,)}
    save_file({n: torch.zeros(s) for n, s in shapes.items()}, directory / "sae_weights.safetensors")
    with pytest.raises(SaebenchError, match=re.escape(said)):
        _metadata(directory)


def _metadata(directory: Path) -> None:
    (reference,) = find_subjects([str(directory)])
    reference.metadata(Overrides())


QUIET = """
import sys
asked = []
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        asked.append((event, args[1:] if event == "socket.connect" else args))
sys.addaudithook(watch)
import saebench
import os
run = saebench.judge("demo:l2-topk", sequences=4, properties=["fidelity"])
assert run.cases[0].metrics
assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"
from huggingface_hub import constants
assert constants.HF_HUB_DISABLE_TELEMETRY
assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
assert os.environ["WANDB_ERROR_REPORTING"] == "false"
print("asked:", asked)
"""


def test_a_run_asks_no_network_and_the_libraries_are_told_to_report_nothing(tmp_path):
    names = {*OFF, "HF_HUB_OFFLINE"}
    clean = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", QUIET], capture_output=True,
                          text=True, env=clean, cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("asked: []")
