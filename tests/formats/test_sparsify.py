"""sparsify's directories, against its formulas written out in float64."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import saebench
from saebench.errors import HostError, SubjectError
from saebench.options import Overrides
from saebench.subjects.loading import load_subject
from saebench.subjects.references import find_subjects
from saebench.subjects.sae import Subject

D, LATENTS, K = 16, 48, 6
OLD = {"expansion_factor": 3, "normalize_decoder": True, "num_latents": LATENTS, "k": K}
NEW = OLD | {"activation": "topk", "multi_topk": False, "skip_connection": False,
             "transcode": False}  # fmt: skip
RUN = {"model": "lab/model", "dataset": "lab/text", "ctx_len": 12}


def _x(rows: int = 60) -> torch.Tensor:
    return torch.randn(rows, D, generator=torch.Generator().manual_seed(1))


def _saved(root: Path, name: str = "layers.1", *, run: dict | None = RUN, **changes: Any) -> Path:
    """Write what sparsify's save_to_disk writes, with random weights."""
    told = NEW | {"d_in": D} | changes
    generator = torch.Generator().manual_seed(0)
    shapes = {"encoder.weight": (LATENTS, D), "encoder.bias": (LATENTS,), "W_dec": (LATENTS, D),
              "b_dec": (D,), "W_skip": (D, D)}  # fmt: skip
    tensors = {n: torch.randn(s, generator=generator) / 2 for n, s in shapes.items()}
    if not told.get("skip_connection"):
        del tensors["W_skip"]
    (root / name).mkdir(parents=True)
    save_file(tensors, root / name / "sae.safetensors")
    (root / name / "cfg.json").write_text(json.dumps({k: v for k, v in told.items() if v != "-"}))
    if run is not None:
        (root / "config.json").write_text(json.dumps(run))
    return root / name


def _load(path: Path, overrides: Overrides | None = None) -> Subject:
    [reference] = find_subjects([str(path)])
    return load_subject(reference, overrides=overrides or Overrides(), device="cpu")


def _by_hand(path: Path, told: dict[str, Any]) -> np.ndarray:
    w = {n: t.double().numpy() for n, t in load_file(path / "sae.safetensors").items()}
    out = []
    for x in _x().double().numpy():
        centred = x - w["b_dec"] if not told["transcode"] or "activation" not in told else x
        pre = w["encoder.weight"] @ centred + w["encoder.bias"]
        latents = np.zeros(LATENTS)
        for i in _chosen(pre, told):
            latents[i] = pre[i] if told.get("signed") else max(pre[i], 0)
        y = w["W_dec"].T @ latents + w["b_dec"]
        out.append(y + (w["W_skip"] @ x if told["skip_connection"] else 0))
    return np.array(out)


def _chosen(pre: np.ndarray, told: dict[str, Any]) -> list[int]:
    if told.get("activation") == "groupmax":
        size = LATENTS // K
        return [g * size + int(np.argmax(pre[g * size : (g + 1) * size])) for g in range(K)]
    return list(np.argsort(-abs(pre) if told.get("signed") else -pre)[:K])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"activation": "groupmax"},
        {"activation": "-", "signed": True},
        {"skip_connection": True},
        {"transcode": True},
        {"transcode": True, "skip_connection": True},
        {"transcode": True, "activation": "-"},
    ],
)
def test_every_variant_gives_what_its_formula_gives(changes: dict[str, Any], tmp_path: Path):
    path = _saved(tmp_path, **changes)
    told = {k: v for k, v in (NEW | changes).items() if v != "-"}
    found = _load(path).reconstruct(_x())
    np.testing.assert_allclose(found.x_hat.numpy(), _by_hand(path, told), rtol=1e-4, atol=1e-5)
    assert 0 < found.l0.mean() <= K


def test_architecture_and_sizes_are_those_of_the_configuration(tmp_path: Path):
    subject = _load(_saved(tmp_path, num_latents=0))
    assert (subject.architecture, subject.d_in, subject.d_sae) == ("topk", D, LATENTS)
    assert subject.config["k"] == K


def test_hook_model_context_and_data_set_come_from_the_directory_and_its_run(tmp_path: Path):
    metadata = _load(_saved(tmp_path)).metadata
    assert (metadata.hook, metadata.model_name) == ("layers.1", "lab/model")
    assert (metadata.training_context, metadata.dataset_path) == (12, "lab/text")
    assert metadata.module_path


@pytest.mark.parametrize(
    ("name", "hook"),
    [
        ("h.3.mlp", "h.3.mlp"),
        ("gpt_neox.layers.2.attention", "gpt_neox.layers.2.attention"),
        ("layers_5", "layers.5"),
        ("layers.4/seed1", "layers.4"),
    ],
)
def test_the_directorys_name_is_the_module(name: str, hook: str, tmp_path: Path):
    assert _load(_saved(tmp_path, name, run=None)).metadata.hook == hook


@pytest.mark.parametrize("name", ["mine", "embed_tokens", "best-of-3"])
def test_a_directory_of_another_name_needs_the_option(name: str, tmp_path: Path):
    path = _saved(tmp_path, name)
    with pytest.raises(SubjectError, match=r"cfg\.json: metadata has no hook_name.*--sae-hook"):
        _load(path)
    assert _load(path, Overrides(hook="layers.1")).metadata.hook == "layers.1"


def test_a_transcoder_reads_its_modules_input(tmp_path: Path):
    metadata = _load(_saved(tmp_path, "layers.1.mlp", transcode=True)).metadata
    assert (metadata.hook, metadata.input_hook) == ("layers.1.mlp", "layers.1.mlp.input")


def test_without_the_runs_configuration_the_model_must_be_given(tiny, tmp_path: Path):
    path = str(_saved(tmp_path, run=None))
    with pytest.raises(HostError, match="--sae-model"):
        saebench.judge(path, data=tiny.texts)


def test_a_directory_is_judged_at_its_modules_output(tiny, tmp_path: Path):
    run = saebench.judge(
        str(_saved(tmp_path)), tiny.model, tiny.texts, properties=["fidelity"], sequences=4
    )
    assert (run.saes[0].hook, run.saes[0].architecture) == ("layers.1", "topk")
    assert run.datasets[0].context == 12
    assert run.cases[0].metrics


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_computed_with_in_fp32(dtype: torch.dtype, tmp_path: Path):
    path = _saved(tmp_path)
    half = {n: t.to(dtype) for n, t in load_file(path / "sae.safetensors").items()}
    save_file(half, path / "sae.safetensors")
    found = _load(path).reconstruct(_x())
    assert found.x_hat.dtype == torch.float32
    np.testing.assert_allclose(found.x_hat.numpy(), _by_hand(path, NEW), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"k": LATENTS + 1}, "topk of k=49 does not fit 48 latents"),
        ({"k": 5, "activation": "groupmax"}, "groupmax of k=5 does not fit"),
        ({"k": "six"}, "k must be a positive integer, found 'six'"),
        ({"d_in": None}, "d_in must be a positive integer"),
        ({"activation": "topkk"}, "unknown activation 'topkk'; did you mean 'topk'"),
        ({"num_latents": 0, "expansion_factor": 10**9}, "must be a positive integer"),
        ({"num_latents": LATENTS + 1}, r"encoder.weight is \(48, 16\), but cfg.json says \(49, 16"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(changes, said: str, tmp_path: Path):
    with pytest.raises(SubjectError, match=said):
        find_subjects([str(_saved(tmp_path, **changes))])


def test_a_transposed_decoder_is_called_so(tmp_path: Path):
    path = _saved(tmp_path)
    tensors = load_file(path / "sae.safetensors")
    tensors["W_dec"] = tensors["W_dec"].T.contiguous()
    save_file(tensors, path / "sae.safetensors")
    with pytest.raises(SubjectError, match=r"W_dec is \(16, 48\) \(transposed\)"):
        find_subjects([str(path)])


def test_a_missing_tensor_is_named(tmp_path: Path):
    path = _saved(tmp_path)
    tensors = load_file(path / "sae.safetensors")
    del tensors["b_dec"]
    save_file(tensors, path / "sae.safetensors")
    with pytest.raises(SubjectError, match="b_dec is missing, found"):
        find_subjects([str(path)])


@pytest.mark.parametrize("kept", [0, 8, 200])
def test_truncated_weights_are_refused(kept: int, tmp_path: Path):
    weights = _saved(tmp_path) / "sae.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(SubjectError, match=r"sae\.safetensors: truncated"):
        find_subjects([str(weights.parent)])


@pytest.mark.parametrize(
    ("told", "more"), [(False, {"W_skip": (D, D)}), (False, {"post_enc": (D,)})]
)
def test_tensors_that_the_configuration_has_no_use_for_are_refused(told, more, tmp_path: Path):
    path = _saved(tmp_path, skip_connection=told)
    tensors = load_file(path / "sae.safetensors")
    tensors |= {name: torch.ones(shape) for name, shape in more.items()}
    save_file(tensors, path / "sae.safetensors")
    with pytest.raises(SubjectError, match=rf"holds {next(iter(more))}, unused with cfg\.json"):
        find_subjects([str(path)])


def test_a_skip_connection_that_is_said_and_missing_is_named(tmp_path: Path):
    path = _saved(tmp_path, skip_connection=True)
    tensors = load_file(path / "sae.safetensors")
    save_file({n: t for n, t in tensors.items() if n != "W_skip"}, path / "sae.safetensors")
    with pytest.raises(SubjectError, match="W_skip is missing"):
        find_subjects([str(path)])


def test_unknown_keys_are_noted_or_refused(tmp_path: Path):
    assert any(
        "cfg.json has keys that saebench does not know: team" in note
        for note in _load(_saved(tmp_path / "a", team="interp")).metadata.notes
    )
    with pytest.raises(SubjectError, match="unknown key 'encoder_bias'"):
        find_subjects([str(_saved(tmp_path / "b", encoder_bias=2))])


@pytest.mark.parametrize("run", [RUN | {"transcode": True}, RUN | {"sae": {"transcode": True}}])
def test_the_runs_configuration_makes_a_transcoder_too(run: dict[str, Any], tmp_path: Path):
    path = _saved(tmp_path / "a", "layers.1.mlp", run=run, transcode="-", skip_connection=True)
    metadata = _load(path).metadata
    assert (metadata.input_hook, metadata.hook) == ("layers.1.mlp.input", "layers.1.mlp")
    with pytest.raises(SubjectError, match=r"says transcode=False, but the run's config\.json"):
        find_subjects([str(_saved(tmp_path / "b", "layers.1.mlp", run=run))])


def test_a_skip_connection_that_nothing_calls_a_transcoders_is_refused(tmp_path: Path):
    path = _saved(tmp_path, "layers.1.mlp", transcode="-", skip_connection=True)
    with pytest.raises(SubjectError, match="but no 'transcode'; write"):
        find_subjects([str(path)])
