"""Traps of other evaluators (docs/metrics.md), where no module's own tests spring them."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from families import WIDTH, make_host, make_model, make_tokens, random_ids
from safetensors.torch import load_file, save_file
from tiny import make_tokenizer
from torch import Tensor, nn

import saebench
from saebench.errors import HostError, MeasurementError, OptionError, SubjectError
from saebench.options import Overrides
from saebench.subjects.hub import expected_explained_variance
from saebench.subjects.loading import load_subject, wrap_sae
from saebench.subjects.references import SubjectReference, find_subjects
from saebench.subjects.sae import Subject
from saebench.substitution.engine import Engine

D, FEATURES = 16, 48
HOOK = "blocks.1.hook_resid_pre"
WEIGHTS = "sae_weights.safetensors"


def _x(rows: int = 300, width: int = D) -> Tensor:
    return 2 * torch.randn(rows, width, generator=torch.Generator().manual_seed(0))


def _made(architecture: str, *, metadata: dict[str, Any] | None = None, **options: Any) -> Any:
    from sae_lens.registry import get_sae_class
    from sae_lens.saes.sae import SAEMetadata

    stated = {"hook_name": HOOK, "model_name": "m", "context_size": 16, "prepend_bos": True}
    made, config = get_sae_class(architecture)
    sizes = {"d_in": D, "d_sae": FEATURES} | options
    sae = made(config(**sizes, metadata=SAEMetadata(**(stated if metadata is None else metadata))))
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            drawn = 0.5 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(drawn.abs() if name == "threshold" else drawn)
    return sae


def _load(path: Path, **overrides: Any) -> Subject:
    [reference] = find_subjects([str(path)])
    return load_subject(reference, overrides=Overrides(**overrides), device="cpu")


def test_negative_features_count_and_do_not_cancel():
    """AbsTopK's features may be negative: l0 counts what is not 0, l1 sums sizes."""
    sae = _made("abstopk", k=7)
    found = wrap_sae(sae, id="sae", overrides=Overrides()).reconstruct(_x())
    features = sae.encode(_x())
    assert (features < 0).any()
    assert found.l0.tolist() == [7] * 300
    assert torch.allclose(found.l1, features.abs().sum(-1))
    assert (found.l1 > features.sum(-1).abs() + 0.1).float().mean() > 0.9
    assert int(found.fired.sum()) == 7 * 300


def test_an_architecture_without_encoder_bias_is_judged(tmp_path: Path):
    sae = _made("matching_pursuit", max_iterations=4)
    assert not hasattr(sae, "b_enc")
    sae.save_model(tmp_path / "sae")
    subject = _load(tmp_path / "sae")
    found = subject.reconstruct(_x())
    torch.testing.assert_close(found.x_hat, sae(_x()), rtol=1e-5, atol=1e-5)
    assert 0 < found.l0.max() <= 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_jumprelu_thresholds_stay_in_fp32_whatever_the_models_dtype(dtype, tmp_path: Path):
    _made("jumprelu").save_model(tmp_path / "sae")
    subject = _load(tmp_path / "sae")
    tokens = make_tokens(random_ids(2, 8), torch.ones(2, 8, dtype=torch.bool))
    sae = wrap_sae(_made("jumprelu", d_in=WIDTH), id="sae", overrides=Overrides())
    host = make_host("llama")
    host.model.to(dtype)
    Engine(host, tokens, seed=0).measure([(sae, ("sae",))], progress=lambda _: None)
    for judged in (subject, sae):
        assert {p.dtype for p in judged.sae.parameters()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_directory_of_half_precision_is_computed_with_in_fp32(dtype, tmp_path: Path):
    sae = _made("jumprelu")
    sae.save_model(tmp_path / "sae")
    file = tmp_path / "sae" / WEIGHTS
    save_file({n: t.to(dtype) for n, t in load_file(file).items()}, file)
    config = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    (tmp_path / "sae" / "cfg.json").write_text(
        json.dumps(config | {"dtype": str(dtype).removeprefix("torch.")})
    )
    sae.load_state_dict({n: t.float() for n, t in load_file(file).items()})
    found = _load(tmp_path / "sae").reconstruct(_x())
    torch.testing.assert_close(found.x_hat, sae(_x()), rtol=1e-5, atol=1e-5)


def test_quantised_weights_without_their_scale_are_refused(tmp_path: Path):
    _made("standard").save_model(tmp_path / "sae")
    file = tmp_path / "sae" / WEIGHTS
    save_file(load_file(file) | {"W_dec": torch.ones(FEATURES, D, dtype=torch.int8)}, file)
    with pytest.raises(SubjectError, match="W_dec is of I8: quantised weights mean nothing"):
        find_subjects([str(tmp_path / "sae")])


def test_a_transposed_decoder_is_called_so(tmp_path: Path):
    _made("standard").save_model(tmp_path / "sae")
    file = tmp_path / "sae" / WEIGHTS
    tensors = load_file(file)
    save_file(tensors | {"W_dec": tensors["W_dec"].T.contiguous()}, file)
    with pytest.raises(SubjectError, match=r"W_dec is \(16, 48\) \(transposed\)"):
        find_subjects([str(tmp_path / "sae")])


def test_a_configuration_without_an_architecture_is_a_standard_sae(tmp_path: Path):
    sae = _made("standard")
    sae.save_model(tmp_path / "sae")
    path = tmp_path / "sae" / "cfg.json"
    config = json.loads(path.read_text())
    del config["architecture"], config["metadata"]["sae_lens_version"]
    config |= config.pop("metadata")  # as SAELens wrote it before version 6
    path.write_text(json.dumps(config))
    subject = _load(tmp_path / "sae")
    assert subject.architecture == "standard"
    torch.testing.assert_close(subject.reconstruct(_x()).x_hat, sae(_x()), rtol=1e-5, atol=1e-5)


def test_an_sae_object_of_half_precision_is_summed_in_fp32():
    """|f| of many features is beyond fp16's 65504."""
    sae = _made("standard")
    with torch.no_grad():
        sae.b_enc.fill_(3000)
    wide = wrap_sae(sae, id="sae", overrides=Overrides()).reconstruct(_x(5))
    half = copy.deepcopy(sae).half()
    half.dtype = torch.float16
    narrow = wrap_sae(half, id="sae", overrides=Overrides()).reconstruct(_x(5))
    assert wide.l1.min() > 65504
    torch.testing.assert_close(narrow.l1, wide.l1, rtol=1e-2, atol=0)
    assert narrow.x_hat.dtype == torch.float32


def test_many_features_are_taken_in_fewer_rows_and_change_nothing(monkeypatch):
    from saebench.subjects import sae as module

    subject = wrap_sae(_made("standard"), id="sae", overrides=Overrides())
    whole, rows = subject.reconstruct(_x()), []
    inner = subject._reconstruct
    monkeypatch.setattr(
        subject, "_reconstruct", lambda x, *rest: rows.append(len(x)) or inner(x, *rest)
    )
    monkeypatch.setattr(module, "FEATURES_AT_ONCE", {"cpu": 7 * FEATURES})
    few = subject.reconstruct(_x())
    assert max(rows) == 7
    torch.testing.assert_close(few.x_hat, whole.x_hat, rtol=1e-5, atol=1e-5)
    assert torch.equal(few.fired, whole.fired)
    monkeypatch.setattr(module, "FEATURES_AT_ONCE", {"cpu": 1})
    assert torch.equal(subject.reconstruct(_x(3)).l0, whole.l0[:3])


class _Transposed(nn.Module):
    """A module that keeps its matrices as nn.Linear does, under SAELens' names."""

    def __init__(self, width: int = D, features: int = FEATURES) -> None:
        super().__init__()
        self.W_enc = nn.Parameter(torch.randn(features, width) / 4)
        self.W_dec = nn.Parameter(torch.randn(width, features) / 4)
        self.b_dec = nn.Parameter(torch.zeros(width))

    def encode(self, x: Tensor) -> Tensor:
        return (x @ self.W_enc.T).relu()

    def decode(self, features: Tensor) -> Tensor:
        return features @ self.W_dec.T + self.b_dec


@pytest.mark.parametrize("features", [FEATURES, D, 4096])
def test_a_modules_transposed_matrices_are_not_taken_for_saelens(features: int):
    module = _Transposed(features=features)
    subject = wrap_sae(module, id="sae", overrides=Overrides(hook=HOOK))
    found = subject.reconstruct(_x(9))
    torch.testing.assert_close(found.x_hat, module.decode(module.encode(_x(9))))
    assert found.l1_unit is None
    assert (subject.d_in, subject.d_sae) == (0, features)


def test_normalisation_keeps_no_state_from_one_batch_to_the_next():
    """layer_norm's mean and size are of the last encode: encode and decode are one step."""
    sae = _made("standard", normalize_activations="layer_norm")
    subject = wrap_sae(sae, id="sae", overrides=Overrides())
    small, large = _x(), 1000 * _x() + 50
    expected = [sae(rows) for rows in (small, large)]
    both = subject.reconstruct(torch.cat([small, large])).x_hat.split(300)
    for found, theirs in zip(both, expected, strict=True):
        torch.testing.assert_close(found, theirs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(subject.reconstruct(small).x_hat, expected[0], rtol=1e-5, atol=1e-5)


def test_the_old_flag_of_a_normalisation_that_is_not_folded_is_refused_too(tmp_path: Path):
    """Before version 6, normalize_activations was true or false."""
    _made("standard").save_model(tmp_path / "sae")
    path = tmp_path / "sae" / "cfg.json"
    config = json.loads(path.read_text()) | {"normalize_activations": True}
    config |= config.pop("metadata") | {"sae_lens_version": "3.0.0"}
    path.write_text(json.dumps(config))
    with pytest.raises(SubjectError, match=r"is not folded.*fold_activation_norm_scaling_factor"):
        _load(tmp_path / "sae")


def test_an_sae_far_below_its_releases_explained_variance_is_stopped():
    sae = wrap_sae(_made("standard", d_in=WIDTH), id="sae", overrides=Overrides())
    sae.expected_explained_variance = 0.98
    tokens = make_tokens(random_ids(2, 8), torch.ones(2, 8, dtype=torch.bool))
    found = Engine(make_host("llama"), tokens, seed=0).measure(
        [(sae, ("sae",))], progress=lambda _: None
    )["sae"]
    assert isinstance(found, MeasurementError)
    assert "its release says 0.98: wrong weights, wrong hook" in str(found)


def test_a_releases_explained_variance_is_the_registrys_and_1_means_none():
    def expected(sae_id: str) -> float | None:
        reference = SubjectReference("x", "x", repository="gpt2-small-res-jb", path=sae_id)
        return expected_explained_variance(reference)

    found = expected("blocks.8.hook_resid_pre")
    assert found is not None
    assert 0.5 < found < 1
    assert expected("no such SAE") is None


@pytest.mark.parametrize("key", ["hook_name", "model_name", "context_size", "prepend_bos"])
@pytest.mark.parametrize("as_none", [True, False])
def test_metadata_that_are_none_are_missing(key: str, as_none: bool, tiny):
    """SAELens' metadata gives None for any key, with no error."""
    stated = {"hook_name": HOOK, "model_name": tiny.model, "context_size": 12, "prepend_bos": True}
    stated = stated | {key: None} if as_none else {k: v for k, v in stated.items() if k != key}
    sae = _made("standard", metadata=stated)

    def judged() -> Any:
        return saebench.judge(sae, None, tiny.texts, properties=["sparsity"], sequences=2)

    errors = {
        "hook_name": (SubjectError, "--sae-hook"),
        "model_name": (HostError, "model_name; pass model="),
        "context_size": (OptionError, "--sae-context"),
    }
    if key in errors:
        with pytest.raises(errors[key][0], match=errors[key][1]):
            judged()
    else:
        assert "--sae-prepend-bos" in " ".join(judged().saes[0].notes)


@pytest.mark.parametrize(("trained_on", "noted"), [("lab/texts.jsonl", True), ("lab/x", False)])
def test_being_judged_on_the_text_of_the_training_is_noted(trained_on, noted, tiny, tmp_path):
    sae = tiny.copy_of(tiny.good, tmp_path / "sae", metadata__dataset_path=trained_on)
    run = saebench.judge(str(sae), tiny.model, tiny.texts, properties=["sparsity"], sequences=2)
    notes = " ".join(run.saes[0].notes)
    assert ("texts.jsonl, the text that this SAE was trained on" in notes) is noted


def test_an_sae_on_a_plain_model_reads_its_modules_output():
    """model.layers.0 is that layer's output, which is the next one's input."""
    model = make_model("llama")
    texts = [" ".join(f"w{(3 * i + j) % 40}" for j in range(14)) for i in range(4)]
    stated = {"context_size": 10, "prepend_bos": True}
    path = stated | {"hook_name": "model.layers.0", "model_class_name": "AutoModelForCausalLM"}
    values = []
    for metadata in (path, stated | {"hook_name": "blocks.1.hook_resid_pre"}):
        sae = _made("standard", d_in=WIDTH, metadata=metadata)
        run = saebench.judge(sae, model, texts, tokenizer=make_tokenizer(), properties=["fidelity"])
        values.append({m.name: m.value for m in run.cases[0].metrics})
    assert values[0] == pytest.approx(values[1])
