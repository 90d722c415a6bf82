"""Files of tools whose formats are not read: recognised, with Python that judges them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from old_saelens import random_tensors, save, save_6
from safetensors.torch import save_file

import saebench
from saebench.errors import SubjectError
from saebench.options import Overrides
from saebench.subjects.loading import load_subject
from saebench.subjects.references import find_subjects


def _written(root: Path, **files: Any) -> Path:
    """Write files: texts, JSON objects, or tensors by torch or safetensors. __ stands for a dot."""
    root.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = root / name.replace("__", ".")
        if isinstance(content, str):
            path.write_text(content)
        elif path.suffix == ".json":
            path.write_text(json.dumps(content))
        else:
            (save_file if path.suffix == ".safetensors" else torch.save)(content, path)
    return root


W = {"encoder.0.weight": torch.zeros(4, 2)}
CROW = {"sae_state_dict": W, "mi_crow_metadata": {"n_latents": 4, "k": 2}}
LEGACY = {"cfg": {"d_in": 2}, "state_dict": W}
TOOLS = [
    ("e2e_sae", "e2e", {"final_config__yaml": "seed: 0", "samples_100__pt": W},
     "SAETransformer.from_local_path"),
    ("mi-crow", "store", {"sae_layer_8__pt": CROW}, "inner.sae_engine, inner.encode"),
    ("llamascopium", "sae", {"config__json": {"sae_type": "sae", "d_model": 2},
                             "sae_weights__safetensors": W}, "fold_activation_scale=True"),
    ("circuit-tracer", "set", {"config__yaml": "model_kind: transcoder_set",
                               "layer_0__safetensors": W}, "load_relu_transcoder"),
    ("SAELens 1 or 2", "old", {"final_sparse_autoencoder__pt": LEGACY}, "load_from_pretrained_leg"),
]  # fmt: skip


@pytest.mark.parametrize(("tool", "name", "files", "said"), TOOLS, ids=[t[0] for t in TOOLS])
def test_a_tool_is_known_by_its_files_and_its_sae_can_be_judged(
    tool: str, name: str, files, said: str, tmp_path: Path
):
    with pytest.raises(SubjectError) as caught:
        find_subjects([str(_written(tmp_path / name, **files))])
    message = str(caught.value)
    assert f"files of {tool}" in message
    assert said in message
    assert "saebench.judge(sae" in message or "--sae DIRECTORY" in message
    assert len(message.splitlines()) == 4 or tool.startswith("SAELens")


@pytest.mark.parametrize("name", ["best_model.pt", "sae_step_300.pt", "sae_epoch_2.pt"])
def test_deeplens_is_known_by_its_run_and_judged_by_what_it_decodes(name: str, tmp_path: Path):
    run = _written(tmp_path / "saved_models" / "gpt2" / "run_20260101", **{name: W})
    for spec in (run, run / name):
        with pytest.raises(SubjectError, match=r"files of deeplens.*\n.*\n.*inner\(x\)\[1\]"):
            find_subjects([str(spec)])


def test_the_lines_for_a_foreign_pickle_judge_it(tiny, tmp_path: Path):
    (tmp_path / "sae.pth").write_bytes(b"\x80\x04N.")
    with pytest.raises(SubjectError, match="a pickle can run code") as caught:
        find_subjects([str(tmp_path / "sae.pth")])
    last = str(caught.value).splitlines()[-1]
    sae = torch.nn.Module()
    sae.encode, sae.decode = torch.relu, torch.relu
    line = last.replace('"MODEL"', repr(tiny.model)).replace('"TEXTS.jsonl"', repr(tiny.texts))
    line = line.replace("LAYER", "1").replace(
        ")", ", sequences=4, context=12, prepend_bos=True, properties='fidelity')"
    )
    assert eval(line, {"saebench": saebench, "sae": sae}).cases[0].metrics


CROSS = {
    "circuit-tracer": {"W_enc_0__safetensors": W, "W_dec_0__safetensors": W},
    "its yaml": {"config__yaml": "model_name: a\nmodel_kind: cross_layer_transcoder\n"},
    "llamascopium": {"config__json": {"sae_type": "clt"}, "sae_weights__safetensors": W},
    "clt": {"params_layer_3__safetensors": W},
}


@pytest.mark.parametrize("name", CROSS)
def test_a_cross_layer_transcoder_is_called_one(name: str, tmp_path: Path):
    path = _written(tmp_path / name / "width_16k", **CROSS[name])
    with pytest.raises(
        SubjectError, match="a cross-layer transcoder .* judges SAEs and single-layer"
    ):
        find_subjects([str(path)])


def test_a_layer_of_one_in_the_registry_is_refused_before_it_is_fetched(monkeypatch):
    from sae_lens.loading import pretrained_sae_loaders as loaders
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    def asked(*_, **__):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(loaders, "hf_hub_download", asked)
    releases = get_pretrained_saes_directory()
    layers = [r for r, told in releases.items() if "clt" in str(told.conversion_func)]
    assert layers
    for release in layers:
        [reference] = find_subjects([f"{release}:{next(iter(releases[release].saes_map))}"])
        with pytest.raises(SubjectError, match="one layer of a cross-layer transcoder"):
            load_subject(reference, overrides=Overrides(), device="cpu")


@pytest.mark.parametrize(
    "told",
    [
        {"model_name": "openai/clip-vit-base-patch32"},
        {"model_name": "google/vit-base-patch16-224"},
        {"model_class_name": "HookedViT"},
        {"model_class_name": "CLIPVisionModel"},
        {"cls_token_only": True},
    ],
)
def test_an_sae_of_a_vision_model_is_called_one(told: dict[str, Any], tmp_path: Path):
    path = save(tmp_path / "sae", random_tensors(), **told)
    with pytest.raises(SubjectError, match="an SAE of a vision model"):
        find_subjects([str(path)])
    prisma = _written(tmp_path / "prisma", config__json=told, weights__pt=W)
    with pytest.raises(SubjectError, match=r"config\.json: an SAE of a vision model"):
        find_subjects([str(prisma)])


@pytest.mark.parametrize("model", ["gpt2-small", "google/gemma-2-2b", "EleutherAI/pythia-70m"])
def test_an_sae_of_a_language_model_is_none(model: str, tmp_path: Path):
    metadata = {"model_name": model, "sae_lens_version": "6.0.0"}
    path = save_6(tmp_path / "sae", random_tensors(), metadata=metadata)
    assert find_subjects([str(path)])[0].config is not None


def test_a_pickles_texts_are_read_without_opening_it(tmp_path: Path):
    from saebench.formats.foreign import pickled_texts

    torch.save(CROW | {"big": np.arange(3)}, tmp_path / "a.pt")
    assert {"mi_crow_metadata", "n_latents"} <= pickled_texts(tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(b"PK\x03\x04 no archive")
    assert pickled_texts(tmp_path / "b.pt") == set()
