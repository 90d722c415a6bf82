"""SAELens directories as versions 2 to 6 wrote them, with random weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from saebench.options import Overrides
from saebench.subjects.loading import load_subject
from saebench.subjects.references import find_subjects
from saebench.subjects.sae import Subject

D, FEATURES = 16, 48
SHAPES = {
    "W_enc": (D, FEATURES), "W_dec": (FEATURES, D), "b_enc": (FEATURES,), "b_dec": (D,),
}  # fmt: skip
# What SAELens 5's runner wrote into cfg.json, but for what none of the tests looks at.
RUNNER_5: dict[str, Any] = {
    "model_name": "tiny", "model_class_name": "HookedTransformer", "hook_layer": 1,
    "hook_name": "blocks.1.hook_resid_pre", "hook_eval": "NOT_IN_USE", "hook_head_index": None,
    "dataset_path": "text", "streaming": True, "context_size": 12, "architecture": "standard",
    "d_in": D, "d_sae": FEATURES, "b_dec_init_method": "geometric_median",
    "activation_fn": "relu", "activation_fn_kwargs": {}, "normalize_sae_decoder": True,
    "noise_scale": 0.0, "apply_b_dec_to_input": True, "normalize_activations": "none",
    "seqpos_slice": [None], "device": "cpu", "dtype": "torch.float32", "prepend_bos": True,
    "lr": 0.0003, "l1_coefficient": 1.0, "finetuning_method": None, "n_checkpoints": 2,
    "model_kwargs": {}, "model_from_pretrained_kwargs": {}, "sae_lens_version": "5.10.7",
    "sae_lens_training_version": "5.10.7", "exclude_special_tokens": False, "tokens_per_buffer": 8,
}  # fmt: skip


def random_tensors(*further: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return a standard SAE's weights; ``further`` are vectors of one number a feature, above 0."""
    generator = torch.Generator().manual_seed(seed)
    made = {n: torch.randn(s, generator=generator) / 2 for n, s in SHAPES.items()}
    return made | {n: torch.rand(FEATURES, generator=generator) + 0.5 for n in further}


def gated_tensors() -> dict[str, torch.Tensor]:
    """Return a gated SAE's weights."""
    made = random_tensors("r_mag", "b_gate", "b_mag")
    made.pop("b_enc")
    return made | {n: made[n] - 1 for n in ("r_mag", "b_gate", "b_mag")}


def save(path: Path, tensors: dict[str, torch.Tensor], **changes: Any) -> Path:
    """Write a directory of SAELens 5; a change of ``...`` leaves the key out."""
    path.mkdir(parents=True, exist_ok=True)
    config = {k: v for k, v in (RUNNER_5 | changes).items() if v is not ...}
    (path / "cfg.json").write_text(json.dumps(config))
    save_file(tensors, path / "sae_weights.safetensors")
    return path


def save_6(path: Path, tensors: dict[str, torch.Tensor], **changes: Any) -> Path:
    """Write a directory of SAELens 6."""
    path.mkdir(parents=True, exist_ok=True)
    config = {
        "d_in": D, "d_sae": FEATURES, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": True, "normalize_activations": "none",
        "reshape_activations": "none", "architecture": "standard",
        "metadata": {"sae_lens_version": "6.54.0", "hook_name": "blocks.1.hook_resid_pre"},
    }  # fmt: skip
    (path / "cfg.json").write_text(json.dumps(config | changes))
    save_file(tensors, path / "sae_weights.safetensors")
    return path


def load(path: Path, **overrides: Any) -> Subject:
    """Load the SAE of a directory."""
    [reference] = find_subjects([str(path)])
    return load_subject(reference, overrides=Overrides(**overrides), device="cpu")


def activations(rows: int = 60) -> torch.Tensor:
    """Return made-up activations, not centred."""
    return torch.randn(rows, D, generator=torch.Generator().manual_seed(1)) + 0.3


def doubles(tensors: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Return weights for a reference written out in float64."""
    return {name: tensor.double().numpy() for name, tensor in tensors.items()}


def features_by_hand(x: np.ndarray, w: dict[str, np.ndarray], *, centres: bool = True, k: int = 0):
    """Return relu((x − b_dec)·W_enc + b_enc), gated, above the threshold, or its k largest."""
    product = (x - w["b_dec"] * centres) @ w["W_enc"]
    if "r_mag" in w:
        size = np.maximum(np.exp(w["r_mag"]) * product + w["b_mag"], 0)
        return (product + w["b_gate"] > 0) * size
    found = np.maximum(product + w["b_enc"], 0)
    if "threshold" in w:
        return found * (found > w["threshold"])
    return found * (found >= np.sort(found, axis=-1)[:, -k:][:, :1]) if k else found
