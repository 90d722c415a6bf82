"""dictionary_learning's classes, recognised by their tensors.

config.json is written before training, so a dictionary's class, sizes and k are taken from its
weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from saebench.errors import SubjectError, nearest
from saebench.formats.files import Shape

_LINEAR = frozenset({"encoder.weight", "encoder.bias", "decoder.weight"})
_MATRICES = frozenset({"W_enc", "b_enc", "W_dec", "b_dec"})
BUFFERS = ("k", "threshold", "group_sizes")


@dataclass(frozen=True)
class Kind:
    """A class of dictionary_learning.

    Attributes:
        architecture: SAELens' name of the same architecture.
        centres: whether the decoder's bias is subtracted from the input.
        tensors: names in its state dict, without the buffers.
        threshold: the number of dimensions of its threshold; None for a class without one.
        trainers: names of its trainer in configurations that do not name the class.
    """

    architecture: str
    centres: bool
    tensors: frozenset[str]
    threshold: int | None = None
    trainers: tuple[str, ...] = ()


CLASSES = {
    "AutoEncoder": Kind("standard", True, _LINEAR | {"bias"}),
    "AutoEncoderNew": Kind("standard", False, _LINEAR | {"decoder.bias"}),
    "GatedAutoEncoder": Kind(
        "gated",
        True,
        frozenset(
            {"encoder.weight", "decoder.weight", "decoder_bias", "r_mag", "gate_bias", "mag_bias"}
        ),
    ),
    "AutoEncoderTopK": Kind(
        "topk", True, _LINEAR | {"b_dec"}, trainers=("TopKTrainer", "TrainerTopK")
    ),
    "BatchTopKSAE": Kind(
        "jumprelu", True, _LINEAR | {"b_dec"}, 0, ("BatchTopKTrainer", "TrainerBatchTopK")
    ),
    "MatryoshkaBatchTopKSAE": Kind("jumprelu", True, _MATRICES, 0),
    "JumpReluAutoEncoder": Kind("jumprelu", False, _MATRICES, 1),
}


def class_of(trainer: Mapping[str, Any], shapes: Mapping[str, Shape], *, where: str) -> str:
    """Return the class that the weights' tensors belong to.

    Args:
        trainer: the ``trainer`` object of config.json.
        shapes: the shapes of the weights.
        where: what messages call config.json.

    Raises:
        SubjectError: where config.json names another class, or several classes are possible.
    """
    named = trainer.get("dict_class")
    if "dict_class" in trainer and (not isinstance(named, str) or named not in CLASSES):
        raise SubjectError(
            f"{where}: trainer.dict_class {named!r} is not read{nearest(str(named), CLASSES)}"
        )
    possible = [name for name, kind in CLASSES.items() if _fits(kind, shapes)]
    if named is not None:
        return _agreed(named, possible, shapes, where)
    if len(possible) > 1:
        trained_by = trainer.get("trainer_class")
        possible = [n for n in possible if trained_by in CLASSES[n].trainers] or possible
    if len(possible) != 1:
        which = " and of ".join(possible) or "none that is read"
        raise SubjectError(
            f"{where}: names no trainer.dict_class, and the weights {sorted(shapes)} are of "
            f"{which}; write the class into config.json"
        )
    return possible[0]


def _agreed(named: str, possible: list[str], shapes: Mapping[str, Shape], where: str) -> str:
    """Return the class that config.json names, unless the weights contradict it."""
    kind = CLASSES[named]
    further = sorted(set(shapes) - kind.tensors - set(BUFFERS))
    if not possible and kind.tensors <= set(shapes) and further:
        raise SubjectError(
            f"{where}: says trainer.dict_class {named!r}, but the weights hold "
            f"{', '.join(further)} too, whose effect is unknown"
        )
    if named in possible or not possible:
        return named
    if kind.tensors - set(shapes) or set(shapes) - kind.tensors - set(BUFFERS):
        raise SubjectError(
            f"{where}: says trainer.dict_class {named!r}, but the weights {sorted(shapes)} are of "
            f"{' or '.join(possible)}"
        )
    if kind.threshold is not None and len(shapes.get("threshold", ())) != kind.threshold:
        raise SubjectError(
            f"{where}: says trainer.dict_class {named!r}, but the weights {dict(shapes)} are of "
            f"{' or '.join(possible)}"
        )
    return named


def sizes_of(shapes: Mapping[str, Shape]) -> dict[str, int]:
    """Return the weights' d_in and d_sae, where an encoder shows them; a Linear is [out, in]."""
    if len(shapes.get("encoder.weight", ())) == 2:
        d_sae, d_in = shapes["encoder.weight"]
    elif len(shapes.get("W_enc", ())) == 2:
        d_in, d_sae = shapes["W_enc"]
    else:
        return {}
    return {"d_in": d_in, "d_sae": d_sae}


def _fits(kind: Kind, shapes: Mapping[str, Shape]) -> bool:
    if set(shapes) - set(BUFFERS) != kind.tensors:
        return False
    return kind.threshold is None or (
        "threshold" in shapes and len(shapes["threshold"]) == kind.threshold
    )
