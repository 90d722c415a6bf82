"""dictionary_learning's directories: config.json and ae.pt, a pickle of tensors alone.

The same tensors as ae.safetensors are read instead, where somebody converted them. A checkpoint,
checkpoints/ae_100.pt below config.json, is read by its own path.
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
        """Return whether config.json lies beside ae.pt or ae.safetensors, or above a checkpoint."""
        if directory.is_dir():
            return (directory / CONFIG_FILE).exists() and _weights(directory).exists()
        known = _CHECKPOINT.fullmatch(directory.name) is not None
        return known and directory.is_file() and _config_of(directory).exists()

    def read_files(self, directory: Path) -> tuple[str, ...]:
        """Return the weights that are read."""
        return (_weights(directory).name,)

    def config(self, directory: Path) -> dict[str, Any]:
        """Return config.json in SAELens' terms, corrected by what the weights hold."""
        path, weights = _config_of(directory), _weights(directory)
        told = read_object(path)
        if not told:
            raise SubjectError(f"{path}: expected an object under 'trainer', found nothing")
        trainer = _table(told, "trainer", path) if "trainer" in told else told
        buffer = _table(told, "buffer", path)
        if trainer.get("dict_class") == "AutoEncoderTopK" and "k" in trainer:
            check_size(trainer, "k", where=str(path))
        shapes, k = _header(weights)
        made = class_of(trainer, shapes, where=str(path))
        sizes = _sizes(trainer, shapes, path)
        metadata, transcodes = _metadata(trainer, buffer, path)
        config = {
            "architecture": CLASSES[made].architecture,
            "apply_b_dec_to_input": CLASSES[made].centres,
            **sizes,
            "dtype": "float32",
            "device": "cpu",
            "normalize_activations": "none",
            "metadata": metadata,
            "transcodes": transcodes,
            NOTES: _notes(trainer, made, k),
        }
        if config["architecture"] == "topk":
            config["k"] = _checked_k(trainer, k, sizes["d_sae"], path if k is None else weights)
        return config

    def load(self, directory: Path, config: dict[str, Any]) -> "nn.Module":
        """Return SAELens' equal of the dictionary."""
        from sae_lens import SAE

        weights = _weights(directory)
        safe = weights.suffix == ".safetensors"
        tensors = _safe_tensors(weights) if safe else _tensors(weights)
        _check_fit(tensors, config, weights)
        state = _converted(tensors, config, weights)

        def converter(*_: Any, **__: Any) -> tuple[dict[str, Any], dict[str, Any]]:
            # The version keeps SAELens from filling in what configurations before 6 left out.
            return config | {"sae_lens_version": "6.0.0"}, state

        try:
            return SAE.load_from_disk(directory, converter=converter)
        except (RuntimeError, ValueError, TypeError, KeyError) as error:
            raise SubjectError(f"{weights}: does not fit {CONFIG_FILE}: {error}") from error


def _config_of(place: Path) -> Path:
    """Return the config.json of a directory, or of a checkpoint in it or one level below."""
    if place.is_dir():
        return place / CONFIG_FILE
    beside = place.parent / CONFIG_FILE
    return beside if beside.exists() else place.parent.parent / CONFIG_FILE


def _weights(place: Path) -> Path:
    """Return the weights that are read: those that are no pickle, where they are there."""
    if not place.is_dir():
        return place
    converted = place / CONVERTED_FILE
    return converted if converted.exists() else place / WEIGHTS_FILE


def _header(weights: Path) -> tuple[dict[str, Shape], int | None]:
    """Return the tensors' shapes, and the k that is among them; None where there is none."""
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
    """Return the sizes that config.json says, or the weights' where it says none."""
    keys = {"d_in": "activation_dim", "d_sae": "dict_size"}
    found = sizes_of(shapes)
    return {
        name: check_size(trainer, key, where=str(path))
        if key in trainer or name not in found
        else found[name]
        for name, key in keys.items()
    }


def _checked_k(trainer: dict[str, Any], held: int | None, d_sae: int, where: Path) -> int:
    """Return the weights' k, or config.json's where they hold none."""
    k = check_size({"k": trainer.get("k") if held is None else held}, "k", where=str(where))
    if k > d_sae:
        raise SubjectError(f"{where}: k is {k}, but there are {d_sae} features")
    return k


def _notes(trainer: dict[str, Any], made: str, k: int | None) -> tuple[str, ...]:
    notes = []
    if "dict_class" not in trainer:
        notes.append(f"config.json names no class: {made} by the weights' tensors")
    told = trainer.get("k")
    if k is not None and told not in (None, k) and CLASSES[made].architecture == "topk":
        notes.append(f"k is {k}, as the weights say; config.json, written before training: {told}")
    return tuple(notes)


def _table(told: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    found = told.get(key, {})
    if not isinstance(found, dict):
        raise SubjectError(f"{path}: expected an object under {key!r}, found {found!r}")
    return found


def _metadata(
    trainer: dict[str, Any], buffer: dict[str, Any], path: Path
) -> tuple[dict[str, Any], bool]:
    """Return where the dictionary belongs, and whether it is a transcoder.

    The hook is given only where config.json leaves no doubt.
    """
    metadata = {"model_name": trainer.get("lm_name"), "context_size": buffer.get("ctx_len")}
    name, layer = trainer.get("submodule_name"), trainer.get("layer")
    side = buffer.get("io", OUT)
    if side not in (IN, OUT, IN_AND_OUT):
        raise SubjectError(f"{path}: buffer.io must be {IN}, {OUT} or {IN_AND_OUT}, found {side!r}")
    named = "transcoder" in str(trainer.get("trainer_class", "")).lower()
    transcodes = side == IN_AND_OUT or named
    # A buffer with a layer of its own is that of single attention heads.
    if side != OUT or transcodes or "layer" in buffer:
        return metadata, transcodes
    found = _SUBMODULE.fullmatch(name) if isinstance(name, str) else None
    if found is not None:
        metadata["hook_name"] = f"blocks.{found[2]}.hook_{found[1]}"
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
    """Hold the weights against config.json before anything as large as it claims is made."""
    d_in, d_sae = config["d_in"], config["d_sae"]
    wide: Shape = (d_sae, d_in)
    expected = {
        "encoder.weight": wide, "decoder.weight": wide[::-1], "W_enc": wide[::-1], "W_dec": wide,
    }  # fmt: skip
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    check_shapes(found, expected, weights=weights, config_file=CONFIG_FILE)


def _tensors(weights: Path) -> "dict[str, Tensor]":
    """Read the tensors; ``weights_only`` refuses whatever else a pickle can do.

    Raises:
        SubjectError: for a file that is damaged, or holds more than tensors.
    """
    import torch

    check_tensors_alone(weights)
    check_memory(weights, {"": (weights.stat().st_size // 4,)})
    try:
        found = torch.load(weights, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise SubjectError(
            f"{weights}: holds more than tensors, or is no pickle; opening it could run code, so "
            f"it is refused: {str(error).partition(chr(10))[0]}"
        ) from error
    except Exception as error:
        # On damaged bytes the unpickler raises whatever its opcodes run into.
        raise SubjectError(f"{weights}: truncated or no torch file ({error!r})") from error
    if not isinstance(found, Mapping) or not all(
        isinstance(tensor, torch.Tensor) for tensor in found.values()
    ):
        raise SubjectError(f"{weights}: expected a state dict, found {type(found).__name__}")
    return dict(found)


def _converted(
    tensors: "dict[str, Tensor]", config: dict[str, Any], weights: Path
) -> "dict[str, Tensor]":
    """Give the tensors SAELens' names and orientation: a Linear keeps [out, in]."""
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
            "dictionary_learning learned one; take a later checkpoint"
        )
    return threshold.expand(d_sae).clone() if threshold.ndim == 0 else threshold
