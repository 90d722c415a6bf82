"""SAELens configurations of versions 2 to 6 against their forward passes written out in float64."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from old_saelens import (
    FEATURES,
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

from saebench.errors import SubjectError
from saebench.formats.converted import check_download
from saebench.options import Overrides
from saebench.subjects.loading import load_subject
from saebench.subjects.references import find_subjects

K = 5
TOPK = {"activation_fn_kwargs": {"k": K}}


def _same(path: Path, tensors: dict[str, torch.Tensor], **given: Any) -> None:
    """Hold the loaded SAE against the formula; ``scaling_factor`` multiplies before W_dec."""
    w, x = doubles(tensors), activations()
    features = features_by_hand(x.double().numpy(), w, **given)
    scale = w.get("scaling_factor", w.get("finetuning_scaling_factor", np.ones(FEATURES)))
    found = load(path).reconstruct(x)
    expected = features * scale @ w["W_dec"] + w["b_dec"]
    np.testing.assert_allclose(found.x_hat.numpy(), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.l0.numpy(), (features != 0).sum(-1))


@pytest.mark.parametrize("key", ["activation_fn", "activation_fn_str"])
@pytest.mark.parametrize("architecture", ["standard", "topk", None, ...])
def test_an_older_topk_keeps_its_k(key: str, architecture, tmp_path: Path):
    tensors = random_tensors()
    told = {"activation_fn": ..., "architecture": architecture, key: "topk"} | TOPK
    _same(save(tmp_path / "sae", tensors, **told), tensors, k=K)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (TOPK | {"activation_fn": ...}, "activation_fn_kwargs has k=5, but ReLU takes none"),
        (TOPK, "activation_fn_kwargs has k=5, but ReLU takes none; for a TopK SAE write"),
        ({"activation_fn": "tanh-relu"}, "activation_fn='tanh-relu' is not read: expected"),
        ({"activation_fn_str": "tanh-relu"}, "activation_fn='relu', activation_fn_str='tanh"),
        ({"activation_fn": ["relu"]}, r"activation_fn=\['relu'\] is not read"),
        ({"activation_fn": "topk", "activation_fn_kwargs": {}}, "k must be a positive integer"),
        (TOPK | {"activation_fn": "topk", "k": 6}, "k is 6, and activation_fn_kwargs says 5"),
        ({"activation_fn": "topk", "activation_fn_kwargs": {"k": 5, "temperature": 2}},
         "activation_fn_kwargs has temperature=2, but TopK takes k alone"),
        ({"architecture": "topk"} | TOPK, "architecture 'topk' and activation function 'relu'"),
        ({"architecture": "jumprelu", "activation_fn": "topk"} | TOPK, "no version of SAELens"),
        ({"architecture": "gated", "activation_fn": "topk"} | TOPK, "no version of SAELens"),
        ({"activation_fn_kwargs": [5]}, "activation_fn_kwargs must be dict"),
    ],
)  # fmt: skip
def test_an_activation_function_that_is_not_read_is_refused(change, said: str, tmp_path: Path):
    with pytest.raises(SubjectError, match=said):
        find_subjects([str(save(tmp_path / "sae", random_tensors(), **change))])


@pytest.mark.parametrize("architecture", ["standard", "topk"])
def test_version_6_with_the_keys_of_older_ones_is_refused(architecture: str, tmp_path: Path):
    told = {"architecture": architecture, "activation_fn": "topk"} | TOPK
    with pytest.raises(SubjectError, match=r"before version 6 writes, but names version 6"):
        find_subjects([str(save_6(tmp_path / "sae", random_tensors(), **told))])


def test_a_bias_that_nothing_says_is_subtracted_is_noted(tmp_path: Path):
    tensors = random_tensors()
    path = save(tmp_path / "sae", tensors, apply_b_dec_to_input=...)
    _same(path, tensors)
    assert any("no apply_b_dec_to_input: taken as true" in n for n in load(path).metadata.notes)


@pytest.mark.parametrize(
    "key", ["hook_point_out", "hook_name_output", "out_hook_point", "target_hook"]
)
def test_a_hook_by_another_name_is_refused(key: str, tmp_path: Path):
    told = {key: "blocks.1.hook_mlp_out"}
    with pytest.raises(SubjectError, match=key):
        find_subjects([str(save(tmp_path / "old", random_tensors(), **told))])
    metadata = {"hook_name": "blocks.1.mlp.hook_in", "sae_lens_version": "6.0.0"} | told
    with pytest.raises(SubjectError, match=rf"(metadata.{key}|unknown key '{key}')"):
        find_subjects([str(save_6(tmp_path / "new", random_tensors(), metadata=metadata))])


def test_an_output_by_hugging_faces_name_makes_a_transcoder(tmp_path: Path):
    names = {"hf_hook_name": "model.layers.1.mlp.input", "hf_hook_name_out": "model.layers.1.mlp"}
    metadata = {"hook_name": "blocks.1.mlp.hook_in", "sae_lens_version": "6.0.0"} | names
    with pytest.raises(SubjectError, match="no hook_name_out.*--sae-hook-out"):
        load(save_6(tmp_path / "sae", random_tensors(), metadata=metadata))


@pytest.mark.parametrize("name", ["scaling_factor", "finetuning_scaling_factor"])
@pytest.mark.parametrize("told", [True, False, ...])
def test_fine_tunings_factor_multiplies_features_on_their_way_out(name, told, tmp_path: Path):
    tensors = random_tensors(name)
    _same(save(tmp_path / "sae", tensors, finetuning_scaling_factor=told), tensors)


@pytest.mark.parametrize("architecture", ["gated", "jumprelu", "topk"])
def test_fine_tunings_factor_is_folded_in_every_architecture(architecture: str, tmp_path: Path):
    tensors = gated_tensors() if architecture == "gated" else random_tensors()
    further = ["threshold"] if architecture == "jumprelu" else []
    tensors |= {n: random_tensors(n)[n] for n in ("finetuning_scaling_factor", *further)}
    topk = {"activation_fn": "topk"} | TOPK if architecture == "topk" else {}
    told = {"architecture": architecture, "finetuning_scaling_factor": True} | topk
    k = K if topk else 0
    _same(save(tmp_path / "sae", tensors, **told), tensors, k=k)


def test_a_factor_that_is_said_and_missing_is_refused(tmp_path: Path):
    path = save(tmp_path / "sae", random_tensors(), finetuning_scaling_factor=True)
    with pytest.raises(SubjectError, match="says finetuning_scaling_factor, but the weights hold"):
        find_subjects([str(path)])


def test_without_an_architecture_the_tensors_say_what_it_is(tmp_path: Path):
    told, gated = {"architecture": ...}, gated_tensors()
    _same(save(tmp_path / "gated", gated, **told), gated)
    jumps = random_tensors("threshold")
    _same(save(tmp_path / "jumprelu", jumps, **told), jumps)


@pytest.mark.parametrize(
    ("tensors", "told", "said"),
    [
        (
            random_tensors("threshold"),
            {},
            "'standard', but the weights hold threshold: tensors of j",
        ),
        (random_tensors(), {"architecture": "jumprelu"}, "have no threshold: tensors of standard"),
        (gated_tensors(), {}, "have no b_enc and hold b_gate, b_mag, r_mag: tensors of gated"),
        (random_tensors() | {"W_skip": torch.zeros(D, D)}, {}, "hold W_skip: tensors of skip_tr"),
        (random_tensors() | {"b_enc": torch.zeros(3)}, {}, r"b_enc is \(3,\), expected \(48,\)"),
        (random_tensors() | {"b_dec": torch.zeros(1)}, {}, r"b_dec is \(1,\), expected \(16,\)"),
        (random_tensors() | {"scaling_factor": torch.ones(1)}, {}, r"scaling_factor is \(1,\)"),
        (random_tensors(), {"d_out": 20}, "W_dec is .* but cfg.json says"),
    ],
)
def test_tensors_of_another_architecture_are_refused_with_both(tensors, told, said, tmp_path: Path):
    with pytest.raises(SubjectError, match=said):
        find_subjects([str(save(tmp_path / "sae", tensors, **told))])


def test_a_threshold_that_is_saved_as_its_logarithm_is_read(tmp_path: Path):
    tensors = random_tensors("threshold")
    saved = {n: t for n, t in tensors.items() if n != "threshold"}
    saved["log_threshold"] = tensors["threshold"].log()
    _same(save(tmp_path / "sae", saved, architecture="jumprelu"), tensors)


def test_a_batchtopk_checkpoint_without_a_threshold_yet_is_refused(tmp_path: Path):
    tensors = random_tensors() | {"topk_threshold": torch.tensor(0.0, dtype=torch.float64)}
    path = save_6(tmp_path / "sae", tensors, architecture="batchtopk", k=K)
    with pytest.raises(SubjectError, match="BatchTopK threshold is 0: it was saved before"):
        load(path)


@pytest.mark.parametrize(
    ("told", "noted"),
    [([None], None), ([0, None], None), ([None, 12], None), ([1, None], "slice(1, None)"),
     ([5, 10, 2], "slice(5, 10, 2)"), ([None, -1], "slice(None, -1)")],
)  # fmt: skip
def test_a_slice_of_positions_is_told_in_the_result(told, noted: str | None, tmp_path: Path):
    notes = load(save(tmp_path / "sae", random_tensors(), seqpos_slice=told)).metadata.notes
    assert [n for n in notes if "seqpos_slice" in n and (noted or "?") in n] == [
        n for n in notes if "seqpos" in n
    ]
    assert any("seqpos" in n for n in notes) == (noted is not None)


@pytest.mark.parametrize("told", [["a"], [1, 2, 3, 4], [1, 2, 0], [True], {}])
def test_a_slice_that_is_none_is_refused(told, tmp_path: Path):
    path = save(tmp_path / "sae", random_tensors(), seqpos_slice=told)
    with pytest.raises(SubjectError, match="seqpos_slice must be arguments of Python's slice"):
        load(path)


def test_a_folder_of_a_hub_repository_is_held_to_the_same(tmp_path: Path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    tensors = random_tensors()
    save(tmp_path / "good", tensors, activation_fn="topk", **TOPK)
    save(tmp_path / "bad", tensors, activation_fn="tanh-relu")
    [good, bad] = find_subjects(["org/repo:good", "org/repo:bad"])
    found = load_subject(good, overrides=Overrides(), device="cpu")
    assert found.reconstruct(activations()).l0.max() == K
    with pytest.raises(SubjectError, match=r"org/repo:bad|cfg\.json: activation function"):
        load_subject(bad, overrides=Overrides(), device="cpu")


@pytest.mark.parametrize("told", [{"activation_fn": "tanh-relu"}, TOPK, {"is_transcoder": True}])
def test_a_configuration_that_the_registry_fetches_is_looked_at(told, tmp_path: Path):
    check_download(save(tmp_path / "good", random_tensors()) / "cfg.json")
    with pytest.raises(SubjectError, match=r"cfg\.json: "):
        check_download(save(tmp_path / "bad", random_tensors(), **told) / "cfg.json")
