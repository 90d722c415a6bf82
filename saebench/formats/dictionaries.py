"""dictionary_learning's classes by the tensors that they hold.

config.json is written before training. What class a dictionary is, its sizes and its k are what
the weights hold, whatever it says.
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
    """A class of dictionary_learning's.

    Attributes:
        architecture: SAELens' name of what it computes.
        centres: the input loses the decoder's bias.
        tensors: what its state dict holds, but for the buffers.
        threshold: the number of dimensions of its threshold; None where it needs none.
        trainers: what configurations that do not name the class may call its trainer.
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
    """Return the class whose tensors the weights are.

    Args:
        trainer: what config.json says of the training.
        shapes: the weights'.
        where: what messages call config.json.

    Raises:
        SubjectError: where config.json names another one, or nothing tells two apart.
    """
    told = trainer.get("dict_class")
    if "dict_class" in trainer and (not isinstance(told, str) or told not in CLASSES):
        raise SubjectError(
            f"{where}: trainer.dict_class {told!r} is not read{nearest(str(told), CLASSES)}"
        )
    possible = [name for name, kind in CLASSES.items() if _fits(kind, shapes)]
    if told is not None:
        return _agreed(told, possible, shapes, where)
    if len(possible) > 1:
        named = trainer.get("trainer_class")
        possible = [name for name in possible if named in CLASSES[name].trainers] or possible
    if len(possible) != 1:
        which = " and of ".join(possible) or "none that is read"
        raise SubjectError(
            f"{where}: names no trainer.dict_class, and the weights {sorted(shapes)} are of "
            f"{which}; write the class into config.json"
        )
    return possible[0]


def _agreed(told: str, possible: list[str], shapes: Mapping[str, Shape], where: str) -> str:
    """Return the class that config.json names, unless the weights are plainly another's."""
    kind = CLASSES[told]
    further = sorted(set(shapes) - kind.tensors - set(BUFFERS))
    if not possible and kind.tensors <= set(shapes) and further:
        raise SubjectError(
            f"{where}: says trainer.dict_class {told!r}, but the weights hold {', '.join(further)} "
            "too, of which nothing here says what it does"
        )
    if told in possible or not possible:
        return told
    if kind.tensors - set(shapes) or set(shapes) - kind.tensors - set(BUFFERS):
        raise SubjectError(
            f"{where}: says trainer.dict_class {told!r}, but the weights {sorted(shapes)} are of "
            f"{' or '.join(possible)}"
        )
    if kind.threshold is not None and len(shapes.get("threshold", ())) != kind.threshold:
        raise SubjectError(
            f"{where}: says trainer.dict_class {told!r}, but the weights {dict(shapes)} are of "
            f"{' or '.join(possible)}"
        )
    return told


def sizes_of(shapes: Mapping[str, Shape]) -> dict[str, int]:
    """Return the weights' d_in and d_sae, where there are any; a Linear keeps [out, in]."""
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
