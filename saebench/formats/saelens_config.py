"""SAELens' configurations of all versions in version 6's terms, checked against the weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saebench.errors import SubjectError
from saebench.formats.files import Shape, check_shapes

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
# Fine-tuning's factor for each feature: its name in SAELens 2, and in 3 to 5.
FACTORS = ("scaling_factor", "finetuning_scaling_factor")
_AS_BEFORE_6 = ("standard", "gated", "jumprelu")  # configurations did not name these


def architecture_of(shapes: Mapping[str, Shape]) -> str:
    """Return the architecture of weights whose configuration names none."""
    names = _tensor_names(shapes)
    return next((name for name in _AS_BEFORE_6 if TENSORS[name] == names), "standard")


def check_tensors(shapes: Mapping[str, Shape], config: Mapping[str, Any], weights: Path) -> None:
    """Check the weights' names against the architecture that the configuration names.

    Raises:
        SubjectError: naming the differences, and the architecture that has these tensors.
    """
    architecture = config.get("architecture", "standard")
    expected, names = TENSORS[architecture], _tensor_names(shapes)
    if names == expected:
        return
    missing, further = sorted(expected - names), sorted(names - expected)
    alike = [name for name, tensors in TENSORS.items() if tensors == names]
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
    """Check the sizes of biases, thresholds and factors against the matrices'.

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


def _tensor_names(shapes: Mapping[str, Shape]) -> frozenset[str]:
    """Return the tensors' names, without those that loading folds into others."""
    renamed = {"threshold" if name == "log_threshold" else name for name in shapes}
    return frozenset(renamed - set(FACTORS))


_ACTIVATION = ("activation_fn", "activation_fn_str")
_CHOOSES_K = ("topk", "abstopk")


def settled(
    stored: Mapping[str, Any], shapes: Mapping[str, Shape], *, where: str
) -> dict[str, Any]:
    """Return the configuration with its architecture and k filled in, from it and the weights.

    Args:
        stored: the configuration as it was read.
        shapes: the shapes of the weights.
        where: what messages call the configuration.

    Raises:
        SubjectError: for activation functions that are not read, and contradictions.
    """
    sizes = ("d_in", "d_sae")
    config = {key: stored[key] for key in stored if stored[key] is not None or key in sizes}
    architecture = config.get("architecture", architecture_of(shapes))
    config["architecture"] = _with_activation(config, architecture, where=where)
    if str(config["architecture"]).endswith("transcoder"):
        # SAELens' own default, true, does not fit: the decoder's bias has the output's width.
        config.setdefault("apply_b_dec_to_input", False)
    if config["architecture"] in _CHOOSES_K:
        k = _k(config, where=where)
        if k is not None:
            config["k"] = k
    return config


def check_activation(config: Mapping[str, Any], *, where: str) -> None:
    """Refuse an activation function that SAELens would silently replace by another one.

    Raises:
        SubjectError: naming it.
    """
    _with_activation(config, config.get("architecture") or "standard", where=where)


def for_saelens(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a settled configuration without the older keys, which SAELens would convert again."""
    older = (*_ACTIVATION, "activation_fn_kwargs", "finetuning_scaling_factor")
    return {key: value for key, value in config.items() if key not in older}


def check_weights(config: Mapping[str, Any], shapes: Mapping[str, Shape], weights: Path) -> None:
    """Check a settled configuration against the weights' header.

    Raises:
        SubjectError: naming what differs.
    """
    d_in, d_sae = config["d_in"], config["d_sae"]
    expected = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, config.get("d_out", d_in))}
    check_shapes(shapes, expected, weights=weights, config_file="cfg.json")
    if config.get("d_out", d_in) != d_in and not config["architecture"].endswith("transcoder"):
        raise SubjectError(
            f"{weights}: takes {d_in} components and gives {config['d_out']}, as transcoders do; "
            f"cfg.json says architecture {config['architecture']!r}"
        )
    check_tensors(shapes, config, weights)
    check_vectors(shapes, config, weights)
    if config.get("finetuning_scaling_factor") and not set(FACTORS) & set(shapes):
        raise SubjectError(
            f"{weights}: cfg.json says finetuning_scaling_factor, but the weights hold none; if it "
            "was multiplied into W_dec, set it to false in cfg.json"
        )


def _with_activation(config: Mapping[str, Any], architecture: Any, *, where: str) -> Any:
    """Return the architecture, given the activation function that older versions name."""
    names = {key: config[key] for key in _ACTIVATION if config.get(key)}
    older = {key: config[key] for key in (*names, "activation_fn_kwargs") if config.get(key)}
    if _is_6(config) and older not in ({}, {"activation_fn": "relu"}):
        raise SubjectError(
            f"{where}: says {', '.join(f'{k}={v!r}' for k, v in older.items())}, as SAELens before "
            "version 6 writes, but names version 6, which writes architecture 'topk' and k "
            "instead; write these"
        )
    functions = set(names.values()) if all(isinstance(n, str) for n in names.values()) else set()
    if names and (len(functions) != 1 or not functions <= {"relu", "topk"}):
        raise SubjectError(
            f"{where}: activation function {', '.join(f'{k}={v!r}' for k, v in names.items())} is "
            "not read: expected 'relu' or 'topk'; where the SAE is a torch module, judge it from "
            "Python: saebench.judge(module, hook=…)"
        )
    _check_arguments(config, "topk" in functions or architecture in _CHOOSES_K, where=where)
    if "topk" in functions and architecture not in ("standard", "topk"):
        raise SubjectError(
            f"{where}: says architecture {architecture!r} and activation function 'topk'; no "
            "version of SAELens computes both"
        )
    if architecture == "topk" and functions == {"relu"}:
        raise SubjectError(
            f"{where}: says architecture 'topk' and activation function 'relu'; correct one of them"
        )
    return "topk" if "topk" in functions else architecture


def _is_6(config: Mapping[str, Any]) -> bool:
    """Return whether the configuration says that SAELens 6 or later wrote it."""
    inside = config.get("metadata")
    version = config.get("sae_lens_version") or (
        inside.get("sae_lens_version") if isinstance(inside, dict) else None
    )
    major = str(version).partition(".")[0]
    return major.isdigit() and int(major) >= 6


def _check_arguments(config: Mapping[str, Any], chooses: bool, *, where: str) -> None:
    """Refuse arguments of an activation function that does not take them."""
    given = config.get("activation_fn_kwargs") or {}
    if not isinstance(given, dict):
        raise SubjectError(f"{where}: activation_fn_kwargs must be dict, found {given!r}")
    taken = {"k"} if chooses else set()
    further = sorted(set(given) - taken)
    if further:
        which = "TopK takes k alone" if chooses else "ReLU takes none"
        advice = '; for a TopK SAE write "activation_fn": "topk"' if "k" in further else ""
        raise SubjectError(
            f"{where}: activation_fn_kwargs has {further[0]}={given[further[0]]!r}, but {which}"
            f"{advice}"
        )


def _k(config: Mapping[str, Any], *, where: str) -> Any:
    """Return k, which may be under two keys."""
    inner = (config.get("activation_fn_kwargs") or {}).get("k")
    if inner is not None and config.get("k", inner) != inner:
        raise SubjectError(
            f"{where}: k is {config['k']!r}, and activation_fn_kwargs says {inner!r}"
        )
    return config.get("k", inner)
