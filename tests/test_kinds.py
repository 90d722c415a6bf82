"""Every kind of SAE end to end: saved, found, loaded, judged."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, WIDTH, make_model
from safetensors.torch import save_file
from tiny import TRAINING_CONTEXT, make_tokenizer

import saebench

D, HEAD, MLP = 16, 8, 32  # of the tiny model

# hook, width, further metadata, further configuration
SAES: dict[str, tuple[str, int, dict[str, Any], dict[str, Any]]] = {
    "resid-pre": ("blocks.1.hook_resid_pre", D, {}, {}),
    "resid-mid": ("blocks.0.hook_resid_mid", D, {}, {}),
    "resid-post": ("blocks.1.hook_resid_post", D, {}, {}),
    "attn-out": ("blocks.0.hook_attn_out", D, {}, {}),
    "mlp-out": ("blocks.1.hook_mlp_out", D, {}, {}),
    "mlp-post": ("blocks.0.mlp.hook_post", MLP, {}, {}),
    "z": ("blocks.0.attn.hook_z", D, {}, {}),
    "z-reshaped": ("blocks.0.attn.hook_z", D, {}, {"reshape_activations": "hook_z"}),
    "z-head": ("blocks.0.attn.hook_z", HEAD, {"hook_head_index": 1}, {}),
    "layer-path": ("model.layers.0", D, {"model_class_name": "AutoModelForCausalLM"}, {}),
    "mlp-path": ("model.layers.0.mlp", D, {"model_class_name": "AutoModelForCausalLM"}, {}),
    "mlp-input": ("model.layers.0.mlp.input", D, {"model_class_name": "AutoModelForCausalLM"}, {}),
}
TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")


def _near_identity(width: int, metadata: dict[str, Any], **options: Any) -> Any:
    """Return an SAE that gives back almost what it is given: its features are relu(±x)."""
    from sae_lens import StandardSAE, StandardSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    sae = StandardSAE(
        StandardSAEConfig(d_in=width, d_sae=2 * width, metadata=SAEMetadata(**metadata), **options)
    )
    both = torch.cat([torch.eye(width), -torch.eye(width)])
    noise = torch.randn(both.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        sae.W_enc.copy_(both.T)
        sae.W_dec.copy_(both + 0.02 * noise / width**0.5)
    return sae


def _transcoder(kind: str, metadata: dict[str, Any]) -> Any:
    from sae_lens.registry import get_sae_class
    from sae_lens.saes.sae import SAEMetadata

    made, config = get_sae_class(kind)
    sae = made(config(d_in=D, d_out=D, d_sae=24, apply_b_dec_to_input=False,
                      metadata=SAEMetadata(**metadata)))  # fmt: skip
    with torch.no_grad():
        for parameter in sae.parameters():
            drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
            parameter.copy_(drawn.abs() / 8)
    return sae


@pytest.fixture(scope="module")
def zoo(tiny, tmp_path_factory) -> Path:
    """A directory with an SAE of every kind on the tiny model."""
    root = tmp_path_factory.mktemp("kinds")
    stated = {"model_name": tiny.model, "context_size": TRAINING_CONTEXT, "prepend_bos": True}
    for name, (hook, width, metadata, options) in SAES.items():
        sae = _near_identity(width, stated | {"hook_name": hook} | metadata, **options)
        sae.save_model(root / name)
    hooks = {"hook_name": "blocks.0.mlp.hook_in", "hook_name_out": "blocks.0.hook_mlp_out"}
    for kind in TRANSCODERS:
        _transcoder(kind, stated | hooks).save_model(root / kind)
    _sparsify_transcoder(root / "layers.1.mlp", tiny.model)
    return root


def _sparsify_transcoder(path: Path, model: str) -> None:
    path.mkdir()
    generator = torch.Generator().manual_seed(3)
    shapes = {"encoder.weight": (24, D), "encoder.bias": (24,), "W_dec": (24, D), "b_dec": (D,)}
    tensors = {n: torch.randn(s, generator=generator) / 8 for n, s in shapes.items()}
    save_file(tensors, path / "sae.safetensors")
    stated = {"d_in": D, "num_latents": 24, "k": 5, "activation": "topk", "transcode": True}
    (path / "cfg.json").write_text(json.dumps(stated))
    (path.parent / "config.json").write_text(
        json.dumps({"model": model, "ctx_len": TRAINING_CONTEXT})
    )


@pytest.fixture(scope="module")
def judged(zoo, tiny) -> dict[str, dict[str, Any]]:
    """What one run reports of every SAE."""
    # All texts: on few of them zero ablation may cost this model next to nothing.
    run = saebench.judge(
        f"{zoo}/*", data=tiny.texts, sequences=40, properties=["fidelity", "kl_gap"]
    )
    # Folders named after their hook alone have the one above in their id.
    found: dict[str, dict[str, Any]] = {_folder(sae.id): {"sae": sae} for sae in run.saes}
    for case in run.cases:
        found[_folder(case.sae)] |= {m.name: m.value for m in case.metrics}
        found[_folder(case.sae)][case.property] = case.verdict
    return found


def _folder(id: str) -> str:
    return id.rsplit("/", 1)[-1]


def test_every_kind_was_judged(judged):
    assert set(judged) == {*SAES, *TRANSCODERS, "layers.1.mlp"}
    assert not [name for name, found in judged.items() if found["fidelity"] == "ERROR"]


@pytest.mark.parametrize("name", SAES)
def test_a_nearly_perfect_sae_hardly_changes_the_model_wherever_it_is(name: str, judged):
    found = judged[name]
    assert found["fidelity.explained_variance"] > 0.99
    assert found["fidelity.ce_score"] > 0.95
    assert found["fidelity"] == "PASS"
    assert 0 < found["fidelity.kl"] < 0.01
    assert found["sae"].hook == SAES[name][0]


def test_one_head_changes_less_than_all_heads(judged):
    assert judged["z-head"]["fidelity.kl"] < judged["z"]["fidelity.kl"]


def test_reshaping_changes_nothing(judged):
    same = judged["z"]["fidelity.kl"]
    assert judged["z-reshaped"]["fidelity.kl"] == pytest.approx(same, rel=1e-5)


def test_a_path_and_a_hook_name_of_one_place_are_one_place(judged):
    """The first layer's output is what the second reads."""
    same = judged["resid-pre"]["fidelity.kl"]
    assert judged["layer-path"]["fidelity.kl"] == pytest.approx(same, rel=1e-5)


@pytest.mark.parametrize("name", [*TRANSCODERS, "layers.1.mlp"])
def test_a_transcoder_is_judged_at_its_output(name: str, judged):
    found = judged[name]
    hook = "blocks.0.hook_mlp_out" if name in TRANSCODERS else name
    assert found["sae"].hook == hook
    assert any("a transcoder: reads" in note for note in found["sae"].notes)
    # It was not trained: what it predicts is worse than the mean, and has nothing to do with x.
    assert found["fidelity.explained_variance"] < 0.5
    assert found["kl_gap.ratio[eps_random]"] > 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", [None, 3])
def test_attention_saes_of_other_architectures_with_fewer_key_heads(family: str, head: int | None):
    width = WIDTH if head is None else WIDTH // 4
    stated = {"hook_name": "blocks.1.attn.hook_z", "context_size": 12, "prepend_bos": True}
    sae = _near_identity(width, stated | {"hook_head_index": head})
    texts = [" ".join(f"w{(7 * i + j) % 40}" for j in range(15)) for i in range(6)]
    run = saebench.judge(
        sae, make_model(family), texts, tokenizer=make_tokenizer(), properties=["fidelity"]
    )
    values = {m.name: m.value for m in run.cases[0].metrics}
    assert run.saes[0].d_in == width
    assert values["fidelity.explained_variance"] > 0.99
    assert 0 <= values["fidelity.kl"] < 0.02
