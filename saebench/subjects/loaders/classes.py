"""SAELens' classes by the tensors that they hold: what an SAE is, its weights say."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saebench.errors import SubjectError
from saebench.subjects.loaders.files import Shape

_LINEAR = frozenset({"W_enc", "b_enc", "W_dec", "b_dec"})
TENSORS = {
    "standard": _LINEAR,
    "gated": _LINEAR - {"b_enc"} | {"b_gate", "b_mag", "r_mag"},
    "jumprelu": _LINEAR | {"threshold"},
    "topk": _LINEAR,
    "abstopk": _LINEAR,
    "batchtopk": _LINEAR | {"topk_threshold"},
    "matryoshka_batchtopk": _LINEAR | {"topk_threshold"},
    "matching_pursuit": frozenset({"W_dec", "b_dec"}),
    "transcoder": _LINEAR,
    "skip_transcoder": _LINEAR | {"W_skip"},
    "jumprelu_transcoder": _LINEAR | {"threshold"},
    "jumprelu_skip_transcoder": _LINEAR | {"threshold", "W_skip"},
}
# Fine-tuning's factor for each feature, as SAELens 2 and as 3 to 5 call it.
FACTORS = ("scaling_factor", "finetuning_scaling_factor")
_AS_BEFORE_6 = ("standard", "gated", "jumprelu")  # what had no architecture in its configuration


def architecture_of(shapes: Mapping[str, Shape]) -> str:
    """Return the architecture of weights whose configuration names none."""
    held = _held(shapes)
    return next((name for name in _AS_BEFORE_6 if TENSORS[name] == held), "standard")


def check_tensors(shapes: Mapping[str, Shape], config: Mapping[str, Any], weights: Path) -> None:
    """Hold the weights' names against the architecture that the configuration names.

    Raises:
        SubjectError: naming both, and the architecture whose tensors these are.
    """
    architecture = config.get("architecture", "standard")
    expected, held = TENSORS[architecture], _held(shapes)
    if held == expected:
        return
    missing, further = sorted(expected - held), sorted(held - expected)
    alike = [name for name, tensors in TENSORS.items() if tensors == held]
    raise SubjectError(
        f"{weights}: cfg.json says architecture {architecture!r}, but the weights "
        + " and ".join(
            [f"have no {', '.join(missing)}"] * bool(missing)
            + [f"hold {', '.join(further)}"] * bool(further)
        )
        + (f": tensors of {' or '.join(alike)}" if alike else "")
        + "; save the SAE again with the tool that made it"
    )


def check_vectors(shapes: Mapping[str, Shape], config: Mapping[str, Any], weights: Path) -> None:
    """Hold the sizes of biases, thresholds and factors against the matrices'.

    Raises:
        SubjectError: naming the first that differs.
    """
    d_in, d_sae = config["d_in"], config["d_sae"]
    d_out = config.get("d_out") or d_in
    expected: dict[str, Shape] = {"b_dec": (d_out,), "W_skip": (d_out, d_in), "topk_threshold": ()}
    features = ("b_enc", "threshold", "log_threshold", "b_gate", "b_mag", "r_mag", *FACTORS)
    expected |= dict.fromkeys(features, (d_sae,))
    for name, shape in shapes.items():
        if name in expected and expected[name] != shape:
            raise SubjectError(f"{weights}: {name} is {shape}, expected {expected[name]}")


def _held(shapes: Mapping[str, Shape]) -> frozenset[str]:
    """Return the names, but for those that are folded into others on loading."""
    renamed = {"threshold" if name == "log_threshold" else name for name in shapes}
    return frozenset(renamed - set(FACTORS))
