"""Types and ranges of a SAELens configuration's values: SAELens itself checks hardly any.

It leaves out keys that it does not know and takes its default instead, so that a damaged or
misspelt one would change the numbers without a word.
"""

import difflib
from collections.abc import Mapping
from typing import Any

from saebench.errors import SubjectError
from saebench.formats.files import check_size

TYPES: dict[str, tuple[type, ...]] = {
    "apply_b_dec_to_input": (bool,),
    "rescale_acts_by_decoder_norm": (bool,),
    "stop_on_duplicate_support": (bool,),
    "normalize_activations": (str, bool),  # a bool before SAELens 6
    "reshape_activations": (str,),
    "dtype": (str,),
    "device": (str,),
    "sae_lens_version": (str,),
    "activation_fn_kwargs": (dict,),
    "metadata": (dict,),
    "k": (int, float),
    "residual_threshold": (int, float),
}
DTYPES = ("float32", "float64", "float16", "bfloat16")
RESHAPES = ("none", "hook_z")
CHOOSES_K = ("topk", "abstopk")
METADATA = (
    "hook_name", "hook_name_out", "hook_head_index", "hook_head_index_out", "hf_hook_name",
    "hf_hook_name_out", "context_size", "prepend_bos", "model_name", "model_class_name",
    "model_from_pretrained_kwargs", "dataset_path",
)  # fmt: skip
# Hooks' names of older versions, and what says no more than the name does.
OTHER_HOOKS = (
    "hook_point", "hook_point_head_index", "hook_point_layer", "hook_point_eval", "hook_layer",
    "hook_layer_out", "hook_eval",
)  # fmt: skip
SHADOWED = ("to_dict", "from_dict", "keys", "values", "items", "get")
ALIKE = 0.9  # one letter of eleven; hook_name and hf_hook_name are less so


def check_values(config: Mapping[str, Any], *, where: str) -> None:
    """Refuse values of another type or beyond what the SAE has, and keys that are nearly known.

    Raises:
        SubjectError: naming the key, what was expected and what was found.
    """
    for key, kinds in TYPES.items():
        value = config.get(key)
        odd = isinstance(value, bool) and bool not in kinds
        if value is not None and (odd or not isinstance(value, kinds)):
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise SubjectError(f"{where}: {key} must be {expected}, found {value!r}")
    dtype = str(config.get("dtype") or "float32").removeprefix("torch.")
    if dtype not in DTYPES:
        raise SubjectError(f"{where}: dtype {dtype!r} is none of {', '.join(DTYPES)}")
    if (config.get("reshape_activations") or "none") not in RESHAPES:
        raise SubjectError(
            f"{where}: reshape_activations must be one of {', '.join(RESHAPES)}, found "
            f"{config['reshape_activations']!r}"
        )
    _check_counts(config, where)
    _refuse_misspelt(config, (*TYPES, "architecture"), where)
    _refuse_misspelt(config.get("metadata") or {}, METADATA, f"{where}: metadata")
    _refuse_further_hooks(config.get("metadata") or {}, where)
    refuse_shadowing(config, where=where)


def _refuse_further_hooks(metadata: Mapping[str, Any], where: str) -> None:
    """Refuse a hook by a name that is not read: an SAE that writes elsewhere is a transcoder."""
    for key, value in metadata.items():
        if "hook" in str(key).lower() and key not in (*METADATA, *OTHER_HOOKS) and value:
            raise SubjectError(
                f"{where}: unknown key metadata.{key} ({value!r}), a hook by another name; SAELens "
                "names a transcoder's output hook_name_out"
            )


def refuse_shadowing(config: Mapping[str, Any], *, where: str) -> None:
    """Refuse metadata that would take the place of a method: SAELens makes attributes of its keys.

    Raises:
        SubjectError: naming the key.
    """
    metadata = config.get("metadata")
    for key in metadata if isinstance(metadata, dict) else ():
        if key in SHADOWED or key.startswith("_"):
            raise SubjectError(f"{where}: metadata.{key} is no fact about an SAE")


def _check_counts(config: Mapping[str, Any], where: str) -> None:
    """Hold what counts features or steps against how many there are."""
    d_sae = config["d_sae"]
    if config.get("d_out") is not None:
        check_size(config, "d_out", where=where)
    if config.get("architecture") in CHOOSES_K:
        # A missing one would be SAELens' default of 100.
        k = check_size(_telling_k(config), "k", where=where)
        if k > d_sae:
            raise SubjectError(f"{where}: k is {k}, but there are {d_sae} features")
    if config.get("max_iterations") is not None:
        steps = check_size(config, "max_iterations", where=where)
        if steps > max(d_sae, config["d_in"]):
            raise SubjectError(f"{where}: max_iterations is {steps}, for {d_sae} features")


def _telling_k(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return config if "k" in config else config.get("activation_fn_kwargs") or {}


def _refuse_misspelt(config: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    absent = [key for key in known if key not in config and len(key) > 1]
    for key in config:
        close = difflib.get_close_matches(key, absent, n=1, cutoff=ALIKE)
        if key not in known and close:
            raise SubjectError(f"{where}: unknown key {key!r}; did you mean {close[0]!r}?")
