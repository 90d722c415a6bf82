"""dictionary_learning's format: config.json, and ae.pt, which is a pickle of tensors.

ae.safetensors, a conversion of ae.pt, is read instead where it exists. A checkpoint, such as
checkpoints/ae_100.pt below config.json, is given by its own path.
"""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saebench.errors import SubjectError
from saebench.formats.archives import check_tensors_alone, pickled_number, pickled_tensors
from saebench.formats.dictionaries import CLASSES, class_of, sizes_of
from saebench.formats.files import (
    Shape,
    check_memory,
    check_shapes,
    check_size,
    read_object,
    safetensors_shapes,
)
from saebench.formats.metadata import NOTES

if TYPE_CHECKING:
    from torch import Tensor, nn

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "ae.pt"
CONVERTED_FILE = "ae.safetensors"
IN, OUT, IN_AND_OUT = "in", "out", "in_and_out"
_LINEAR = {"encoder.weight": "W_enc", "decoder.weight": "W_dec"}
_RENAMED = {
    "W_enc": "W_enc",
    "W_dec": "W_dec",
    "encoder.bias": "b_enc",
    "b_enc": "b_enc",
    "bias": "b_dec",
    "b_dec": "b_dec",
    "decoder.bias": "b_dec",
    "decoder_bias": "b_dec",
    "mag_bias": "b_mag",
    "gate_bias": "b_gate",
    "r_mag": "r_mag",
}
_CHECKPOINT = re.compile(r"ae(?:_\w+)?\.(?:pt|safetensors)")
_SUBMODULE = re.compile(r"(resid_post|resid_pre|resid_mid|attn_out|mlp_out)(?:_layer)?_?(\d+)")


class DictionaryLearning:
    """Directories written by dictionary_learning's ``trainSAE``, and checkpoints in them."""

    name = "dictionary_learning"
    config_file = CONFIG_FILE

    def matches(self, directory: Path) -> bool:
        """Return whether there are config.json and weights, or a checkpoint below config.json."""
        if directory.is_dir():
            return (directory / CONFIG_FILE).exists() and _weights(directory).exists()
        is_named_so = _CHECKPOINT.fullmatch(directory.name) is not None
        return is_named_so and directory.is_file() and _config_of(directory).exists()

    def read_files(self, directory: Path) -> tuple[str, ...]:
        """Return the name of the weight file."""
        return (_weights(directory).name,)

    def config(self, directory: Path) -> dict[str, Any]:
        """Return config.json in SAELens' terms, corrected by the weights."""
        path, weights = _config_of(directory), _weights(directory)
        declared = read_object(path)
        if not declared:
            raise SubjectError(f"{path}: expected an object under 'trainer', found nothing")
        trainer = _table(declared, "trainer", path) if "trainer" in declared else declared
        buffer = _table(declared, "buffer", path)
        if trainer.get("dict_class") == "AutoEncoderTopK" and "k" in trainer:
            check_size(trainer, "k", where=str(path))
        shapes, k = _header(weights)
        class_name = class_of(trainer, shapes, where=str(path))
        sizes = _sizes(trainer, shapes, path)
        metadata, transcodes = _metadata(trainer, buffer, path)
        config = {
            "architecture": CLASSES[class_name].architecture,
            "apply_b_dec_to_input": CLASSES[class_name].centres,
            **sizes,
            "dtype": "float32",
            "device": "cpu",
            "normalize_activations": "none",
            "metadata": metadata,
            "transcodes": transcodes,
            NOTES: _notes(trainer, class_name, k),
        }
        if config["architecture"] == "topk":
            config["k"] = _checked_k(trainer, k, sizes["d_sae"], path if k is None else weights)
        return config

    def load(self, directory: Path, config: dict[str, Any]) -> "nn.Module":
        """Return the dictionary as SAELens' equivalent SAE."""
        from sae_lens import SAE

        weights = _weights(directory)
        is_safetensors = weights.suffix == ".safetensors"
        tensors = _safe_tensors(weights) if is_safetensors else _pickled_tensors(weights)
        _check_fit(tensors, config, weights)
        state = _converted(tensors, config, weights)

        def converter(*_: Any, **__: Any) -> tuple[dict[str, Any], dict[str, Any]]:
            # Without a version, SAELens fills in keys that configurations before 6 left out.
            return config | {"sae_lens_version": "6.0.0"}, state

        try:
            return SAE.load_from_disk(directory, converter=converter)
        except (RuntimeError, ValueError, TypeError, KeyError) as error:
            raise SubjectError(f"{weights}: does not fit {CONFIG_FILE}: {error}") from error


def _config_of(place: Path) -> Path:
    """Return the config.json of a directory, or of a checkpoint in it or one level below."""
    if place.is_dir():
        return place / CONFIG_FILE
    own = place.parent / CONFIG_FILE
    return own if own.exists() else place.parent.parent / CONFIG_FILE


def _weights(place: Path) -> Path:
    """Return the weight file: the safetensors conversion where it exists."""
    if not place.is_dir():
        return place
    converted = place / CONVERTED_FILE
    return converted if converted.exists() else place / WEIGHTS_FILE


def _header(weights: Path) -> tuple[dict[str, Shape], int | None]:
    """Return the tensors' shapes, and the value of the tensor k, or None without one."""
    if weights.suffix != ".safetensors":
        tensors = pickled_tensors(weights)
        k = pickled_number(weights, tensors["k"]) if "k" in tensors else None
        return {name: t.shape for name, t in tensors.items()}, None if k is None else int(k)
    shapes = safetensors_shapes(weights)
    if "k" not in shapes:
        return shapes, None
    from safetensors import safe_open

    with safe_open(weights, framework="numpy") as tensors:
        return shapes, int(tensors.get_tensor("k").reshape(-1)[0])


def _sizes(trainer: dict[str, Any], shapes: dict[str, Shape], path: Path) -> dict[str, int]:
    """Return the sizes from config.json, or else from the weights."""
    keys = {"d_in": "activation_dim", "d_sae": "dict_size"}
    stored = sizes_of(shapes)
    return {
        name: check_size(trainer, key, where=str(path))
        if key in trainer or name not in stored
        else stored[name]
        for name, key in keys.items()
    }


def _checked_k(trainer: dict[str, Any], stored: int | None, d_sae: int, where: Path) -> int:
    """Return the weights' k, or config.json's where they have none."""
    k = check_size({"k": trainer.get("k") if stored is None else stored}, "k", where=str(where))
    if k > d_sae:
        raise SubjectError(f"{where}: k is {k}, but there are {d_sae} features")
    return k


def _notes(trainer: dict[str, Any], class_name: str, k: int | None) -> tuple[str, ...]:
    notes = []
    if "dict_class" not in trainer:
        notes.append(f"config.json names no class: {class_name} by the weights' tensors")
    configured = trainer.get("k")
    is_topk = CLASSES[class_name].architecture == "topk"
    if k is not None and configured not in (None, k) and is_topk:
        notes.append(
            f"k is {k}, as the weights say; config.json, written before training: {configured}"
        )
    return tuple(notes)


def _table(config: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    table = config.get(key, {})
    if not isinstance(table, dict):
        raise SubjectError(f"{path}: expected an object under {key!r}, found {table!r}")
    return table


def _metadata(
    trainer: dict[str, Any], buffer: dict[str, Any], path: Path
) -> tuple[dict[str, Any], bool]:
    """Return the dictionary's metadata, and whether it is a transcoder.

    The hook is set only where config.json is unambiguous.
    """
    metadata = {"model_name": trainer.get("lm_name"), "context_size": buffer.get("ctx_len")}
    name, layer = trainer.get("submodule_name"), trainer.get("layer")
    side = buffer.get("io", OUT)
    if side not in (IN, OUT, IN_AND_OUT):
        raise SubjectError(f"{path}: buffer.io must be {IN}, {OUT} or {IN_AND_OUT}, found {side!r}")
    is_named_so = "transcoder" in str(trainer.get("trainer_class", "")).lower()
    transcodes = side == IN_AND_OUT or is_named_so
    # Only the buffer of single attention heads has a layer of its own.
    if side != OUT or transcodes or "layer" in buffer:
        return metadata, transcodes
    match = _SUBMODULE.fullmatch(name) if isinstance(name, str) else None
    if match is not None:
        metadata["hook_name"] = f"blocks.{match[2]}.hook_{match[1]}"
    elif name is None and isinstance(layer, int):
        metadata["hook_name"] = f"blocks.{layer}.hook_resid_post"
        metadata["notes"] = [
            f"config.json names no submodule: taken as layer {layer}'s output, as SAELens takes it "
            "(--sae-hook says otherwise)"
        ]
    return metadata, False


def _safe_tensors(weights: Path) -> "dict[str, Tensor]":
    from safetensors.torch import load_file

    check_memory(weights, safetensors_shapes(weights))
    return load_file(weights)


def _check_fit(tensors: "Mapping[str, Tensor]", config: dict[str, Any], weights: Path) -> None:
    """Check the weights against config.json before anything of its sizes is allocated."""
    d_in, d_sae = config["d_in"], config["d_sae"]
    wide: Shape = (d_sae, d_in)
    expected = {
        "encoder.weight": wide, "decoder.weight": wide[::-1], "W_enc": wide[::-1], "W_dec": wide,
    }  # fmt: skip
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    check_shapes(shapes, expected, weights=weights, config_file=CONFIG_FILE)


def _pickled_tensors(weights: Path) -> "dict[str, Tensor]":
    """Read the tensors of a pickle that is checked first; ``weights_only`` refuses other contents.

    Raises:
        SubjectError: for a file that is damaged, or holds more than tensors.
    """
    import torch

    check_tensors_alone(weights)
    check_memory(weights, {"": (weights.stat().st_size // 4,)})
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise SubjectError(
            f"{weights}: holds more than tensors, or is no pickle; opening it could run code, so "
            f"it is refused: {str(error).partition(chr(10))[0]}"
        ) from error
    except Exception as error:
        # The unpickler may raise anything on damaged bytes.
        raise SubjectError(f"{weights}: truncated or no torch file ({error!r})") from error
    if not isinstance(state, Mapping) or not all(
        isinstance(tensor, torch.Tensor) for tensor in state.values()
    ):
        raise SubjectError(f"{weights}: expected a state dict, found {type(state).__name__}")
    return dict(state)


def _converted(
    tensors: "dict[str, Tensor]", config: dict[str, Any], weights: Path
) -> "dict[str, Tensor]":
    """Return the tensors under SAELens' names and in its orientation: a Linear is [out, in]."""
    state = {new: tensors[old].float() for old, new in _RENAMED.items() if old in tensors}
    state |= {
        new: tensors[old].float().T.contiguous() for old, new in _LINEAR.items() if old in tensors
    }
    if config["architecture"] == "jumprelu":
        state["threshold"] = _threshold(tensors, config["d_sae"], weights)
    for name in ("W_enc", "W_dec", "b_dec"):
        if name not in state:
            raise SubjectError(f"{weights}: has no {name}, found {sorted(tensors)}")
    return state


def _threshold(tensors: "dict[str, Tensor]", d_sae: int, weights: Path) -> "Tensor":
    if "threshold" not in tensors:
        raise SubjectError(f"{weights}: has no threshold, found {sorted(tensors)}")
    threshold = tensors["threshold"].float()
    if threshold.ndim == 0 and threshold < 0:
        raise SubjectError(
            f"{weights}: its BatchTopK threshold is {float(threshold):g}: it was saved before "
            "training set it; take a later checkpoint"
        )
    return threshold.expand(d_sae).clone() if threshold.ndim == 0 else threshold
