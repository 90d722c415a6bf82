"""A SAELens standard or TopK SAE read with json and numpy alone, as an independent reference."""

import json
from pathlib import Path

import numpy as np

KINDS = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a safetensors file, by its specification; bfloat16 as float32."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    data = content[8 + length :]
    found = {}
    for name, stated in header.items():
        if name == "__metadata__":
            continue
        start, end = stated["data_offsets"]
        raw = data[start:end]
        if stated["dtype"] == "BF16":
            wide = np.frombuffer(raw, "<u2").astype("<u4") << 16
            values = wide.view("<f4")
        else:
            values = np.frombuffer(raw, KINDS[stated["dtype"]])
        found[name] = values.reshape(stated["shape"]).astype(np.float32)
    return found


def reconstruct(directory: Path, x: np.ndarray) -> np.ndarray:
    """Return what the directory's SAE makes of x, by the architecture's formula, in float64."""
    config = json.loads((directory / "cfg.json").read_text(encoding="utf-8"))
    read = read_weights(directory / "sae_weights.safetensors")
    w = {name: tensor.astype(np.float64) for name, tensor in read.items()}
    assert config["normalize_activations"] == "none"
    centred = x - w["b_dec"] if config["apply_b_dec_to_input"] else x
    pre = centred @ w["W_enc"] + w["b_enc"]
    if config["architecture"] == "standard":
        return np.maximum(pre, 0) @ w["W_dec"] + w["b_dec"]
    assert config["architecture"] == "topk"
    norm = np.linalg.norm(w["W_dec"], axis=-1)
    scaled = config["rescale_acts_by_decoder_norm"]
    pre = pre * norm if scaled else pre
    kept = np.argsort(-pre, axis=-1, kind="stable")[:, : config["k"]]
    features = np.zeros_like(pre)
    np.put_along_axis(features, kept, np.maximum(np.take_along_axis(pre, kept, -1), 0), -1)
    return (features / norm if scaled else features) @ w["W_dec"] + w["b_dec"]
