"""A SAELens configuration of any version, in version 6's terms and held against its weights.

SAELens 2 to 5 name the activation function (``activation_fn``, ``activation_fn_str``) and its
arguments (``activation_fn_kwargs``); version 6 has a class for each, and leaves out what none of
its classes has. A tanh, or a k without the name of TopK, would then be a ReLU without a word.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saebench.errors import SubjectError
from saebench.subjects.loaders.classes import (
    FACTORS,
    architecture_of,
    check_tensors,
    check_vectors,
)
from saebench.subjects.loaders.files import Shape, check_shapes

_ACTIVATION = ("activation_fn", "activation_fn_str")
_CHOOSES_K = ("topk", "abstopk")


def settled(told: Mapping[str, Any], shapes: Mapping[str, Shape], *, where: str) -> dict[str, Any]:
    """Return the configuration with the architecture and k that it and the weights mean.

    Args:
        told: the configuration as it was read.
        shapes: the weights'.
        where: what messages call the configuration.

    Raises:
        SubjectError: for activation functions that are not read, and contradictions.
    """
    sizes = ("d_in", "d_sae")
    config = {key: told[key] for key in told if told[key] is not None or key in sizes}
    architecture = config.get("architecture", architecture_of(shapes))
    config["architecture"] = _with_activation(config, architecture, where=where)
    if str(config["architecture"]).endswith("transcoder"):
        # Its decoder's bias is as wide as what it writes; SAELens' own default would be refused.
        config.setdefault("apply_b_dec_to_input", False)
    if config["architecture"] in _CHOOSES_K:
        k = _k(config, where=where)
        if k is not None:
            config["k"] = k
    return config


def check_activation(told: Mapping[str, Any], *, where: str) -> None:
    """Refuse an activation function that SAELens would read as another one.

    Raises:
        SubjectError: naming it.
    """
    _with_activation(told, told.get("architecture") or "standard", where=where)


def for_saelens(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a settled configuration without what SAELens would settle again, from older keys."""
    done = (*_ACTIVATION, "activation_fn_kwargs", "finetuning_scaling_factor")
    return {key: value for key, value in config.items() if key not in done}


def check_weights(config: Mapping[str, Any], shapes: Mapping[str, Shape], weights: Path) -> None:
    """Hold a settled configuration against the weights' header.

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
    """Return the architecture, settled by the activation function that older versions name."""
    names = {key: config[key] for key in _ACTIVATION if config.get(key)}
    older = {key: config[key] for key in (*names, "activation_fn_kwargs") if config.get(key)}
    if _is_6(config) and older not in ({}, {"activation_fn": "relu"}):
        raise SubjectError(
            f"{where}: says {', '.join(f'{k}={v!r}' for k, v in older.items())}, as SAELens does "
            "before version 6, and that version 6 wrote it, which names architecture 'topk' and k "
            "instead; write these"
        )
    found = set(names.values()) if all(isinstance(n, str) for n in names.values()) else set()
    if names and (len(found) != 1 or not found <= {"relu", "topk"}):
        raise SubjectError(
            f"{where}: activation function {', '.join(f'{k}={v!r}' for k, v in names.items())} is "
            "not read: expected 'relu' or 'topk'; where the SAE is a torch module, judge it from "
            "Python: saebench.judge(module, hook=…)"
        )
    _check_arguments(config, "topk" in found or architecture in _CHOOSES_K, where=where)
    if "topk" in found and architecture not in ("standard", "topk"):
        raise SubjectError(
            f"{where}: says architecture {architecture!r} and activation function 'topk'; no "
            "version of SAELens that is read computes both"
        )
    if architecture == "topk" and found == {"relu"}:
        raise SubjectError(
            f"{where}: says architecture 'topk' and activation function 'relu'; which is it?"
        )
    return "topk" if "topk" in found else architecture


def _is_6(config: Mapping[str, Any]) -> bool:
    """Return whether the configuration says that SAELens 6 or later wrote it."""
    inside = config.get("metadata")
    told = config.get("sae_lens_version") or (
        inside.get("sae_lens_version") if isinstance(inside, dict) else None
    )
    major = str(told).partition(".")[0]
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
        advice = '; of a TopK SAE it says "activation_fn": "topk"' if "k" in further else ""
        raise SubjectError(
            f"{where}: activation_fn_kwargs has {further[0]}={given[further[0]]!r}, but {which}"
            f"{advice}"
        )


def _k(config: Mapping[str, Any], *, where: str) -> Any:
    """Return k, which two keys may tell."""
    inner = (config.get("activation_fn_kwargs") or {}).get("k")
    if inner is not None and config.get("k", inner) != inner:
        raise SubjectError(
            f"{where}: k is {config['k']!r}, and activation_fn_kwargs says {inner!r}"
        )
    return config.get("k", inner)
