"""Keys and values of SAELens' configurations: which are read, ignored, noted or refused.

SAELens itself ignores keys that it does not know and uses its default instead, so a misspelt or
damaged key would silently change the numbers.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from saebench.errors import SubjectError, nearest
from saebench.formats.files import check_size

HONOURED = frozenset({
    "architecture", "d_in", "d_sae", "d_out", "k", "dtype", "metadata", "apply_b_dec_to_input",
    "normalize_activations", "reshape_activations", "rescale_acts_by_decoder_norm",
    "residual_threshold", "max_iterations", "stop_on_duplicate_support", "activation_fn",
    "activation_fn_str", "activation_fn_kwargs", "finetuning_scaling_factor", "hook_name",
    "hook_point", "hook_head_index", "hook_point_head_index", "hook_name_out",
    "hook_head_index_out", "hf_hook_name", "hf_hook_name_out", "model_name", "model_class_name",
    "model_from_pretrained_kwargs", "context_size", "prepend_bos", "dataset_path",
    "exclude_special_tokens", "sae_lens_version", "sae_lens_training_version",
})  # fmt: skip
NOTED = {
    "seqpos_slice": "judged at other positions too",
    "model_kwargs": "the judged model runs without",
}
HARMLESS = frozenset({
    "act_store_device", "activations_mixing_fraction", "adam_beta1", "adam_beta2", "autocast",
    "autocast_lm", "aux_loss_coefficient", "b_dec_init_method", "cached_activations_path",
    "checkpoint_path", "compile_llm", "compile_sae", "dataset_trust_remote_code",
    "dead_feature_threshold", "dead_feature_window", "decoder_heuristic_init",
    "decoder_heuristic_init_norm", "decoder_init_norm", "decoder_orthogonal_init", "device",
    "disable_concat_sequences", "eval_batch_size_prompts", "eval_every_n_wandb_logs",
    "expansion_factor", "feature_sampling_window", "finetuning_method", "finetuning_tokens",
    "from_pretrained_path", "hook_eval", "hook_layer", "hook_layer_out", "hook_point_eval",
    "hook_point_layer", "init_encoder_as_decoder_transpose", "is_dataset_tokenized",
    "jumprelu_bandwidth", "jumprelu_init_threshold", "jumprelu_sparsity_loss_mode",
    "jumprelu_ste_to_input", "jumprelu_tanh_scale", "l0_coefficient", "l0_warm_up_steps",
    "l1_coefficient", "l1_warm_up_steps", "llm_compilation_mode", "llm_device",
    "log_activations_store_to_wandb", "log_optimizer_state_to_wandb", "log_to_wandb", "logger",
    "lp_norm", "lr", "lr_decay_steps", "lr_end", "lr_scheduler_name", "lr_warm_up_steps",
    "matryoshka_widths", "mse_loss_normalization", "n_batches_for_norm_estimate",
    "n_batches_in_buffer", "n_checkpoints", "n_eval_batches", "n_restart_cycles", "neuronpedia_id",
    "noise_scale", "normalize_sae_decoder", "output_path", "pre_act_loss_coefficient",
    "prefetch_llm_batches", "resume", "resume_from_checkpoint", "run_name", "sae_compilation_mode",
    "save_final_checkpoint", "scale_sparsity_penalty_by_decoder_norm", "seed",
    "sequence_separator_token", "store_batch_size_prompts", "streaming", "target_l0",
    "tokens_per_buffer", "topk_threshold_lr", "train_batch_size_tokens", "training_tokens",
    "use_cached_activations", "use_chat_formatting", "use_ghost_grads", "use_matryoshka_aux_loss",
    "use_sparse_activations", "verbose", "wandb_entity", "wandb_id", "wandb_log_frequency",
    "wandb_project",
})  # fmt: skip
REFUSED = {
    "tied_weights": "weights that are tied by the configuration are read of no class",
    "activation_normalization_factor": "it scales what a temporal SAE reads",
    "bottleneck_factor": "of a temporal SAE, which cannot be judged token by token",
    "kval_topk": "of a temporal SAE, which cannot be judged token by token",
    "n_attn_layers": "of a temporal SAE, which cannot be judged token by token",
    "n_heads": "of a temporal SAE, which cannot be judged token by token",
    "sae_diff_type": "of a temporal SAE, which cannot be judged token by token",
    "is_transcoder": "a transcoder of another tool: SAELens names its output hook_name_out",
    "out_hook_point": "a transcoder of another tool: SAELens names its output hook_name_out",
    "hook_point_out": "a transcoder of another tool: SAELens names its output hook_name_out",
}
# Parts of names in the forward pass: an unknown key with one of these may change it.
_FORWARD = (
    "act_f", "activ", "bias", "b_dec", "center", "centr", "decod", "encod", "fold_", "folded",
    "gated", "_gate", "hook", "_mean", "nonlin", "norm", "relu", "scale", "scaling", "skip", "_std",
    "thresh", "tied", "topk", "top_k", "transc", "w_dec", "w_enc", "whiten",
)  # fmt: skip
_OFF = (None, False, 0, "", "none")

SPARSIFY = frozenset({
    "activation", "d_in", "expansion_factor", "k", "num_latents", "signed", "skip_connection",
    "transcode",
})  # fmt: skip
SPARSIFY_HARMLESS = frozenset({"multi_topk", "normalize_decoder"})
_KNOWN = HONOURED | HARMLESS | set(NOTED) | set(REFUSED)

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
# Names of the hook in older versions, and keys that only repeat parts of the name.
OTHER_HOOKS = (
    "hook_point", "hook_point_head_index", "hook_point_layer", "hook_point_eval", "hook_layer",
    "hook_layer_out", "hook_eval",
)  # fmt: skip
SHADOWED = ("to_dict", "from_dict", "keys", "values", "items", "get")
ALIKE = 0.9  # one letter of eleven differs; hook_name and hf_hook_name differ by more


def is_before(version: Any, other: tuple[int, ...]) -> bool:
    """Return whether a version is known and before another one; 6.0.0-rc.0 counts as 6.

    Example:
        >>> is_before("5.10.7", (6,)), is_before("6.0.0", (6,)), is_before(None, (6,))
        (True, False, False)
    """
    numbers = re.match(r"\d+(?:\.\d+)*", version) if isinstance(version, str) else None
    return numbers is not None and tuple(map(int, numbers[0].split("."))) < other


def check_keys(
    config: Mapping[str, Any], *, where: str, known: frozenset[str] | set[str] = _KNOWN
) -> tuple[str, ...]:
    """Return notes on keys that saebench does not follow.

    Args:
        config: the configuration.
        where: what messages call it.
        known: the keys that saebench knows; by default SAELens'.

    Raises:
        SubjectError: for keys that would change what the SAE computes, and unknown ones whose
            names suggest that they might.
    """
    for key in config:
        if key in known and key in REFUSED and not _is_off(config[key]):
            raise SubjectError(
                f"{where}: {key}={config[key]!r} is not read ({REFUSED[key]}); where the SAE is a "
                "torch module, judge it from Python: saebench.judge(module, hook=…)"
            )
        if key not in known and _may_compute(key) and not _is_off(config[key]):
            raise SubjectError(
                f"{where}: unknown key {key!r} ({config[key]!r}), which may change what the SAE "
                f"computes or where; remove it from the file if it does not{nearest(key, known)}"
            )
    return tuple(_notes(config, known, where))


def _notes(
    config: Mapping[str, Any], known: frozenset[str] | set[str], where: str
) -> Iterator[str]:
    # seqpos_slice is noted where the metadata are parsed: SAELens 6 writes it there.
    if config.get("model_kwargs"):
        yield f"trained with model_kwargs {config['model_kwargs']!r}: {NOTED['model_kwargs']}"
    unknown = sorted(key for key in config if key not in known and config[key] is not None)
    if unknown:
        file = where.rsplit("/", 1)[-1]
        yield f"{file} has keys that saebench does not know: {', '.join(unknown)}"


def _may_compute(key: str) -> bool:
    return any(part in key.lower() for part in _FORWARD)


def _is_off(value: Any) -> bool:
    return value in ([], {}) or any(value is off or value == off for off in _OFF)


def check_values(config: Mapping[str, Any], *, where: str) -> None:
    """Refuse values of a wrong type or range, and keys that are nearly known ones.

    Raises:
        SubjectError: naming the key, the expected values and the value.
    """
    for key, kinds in TYPES.items():
        value = config.get(key)
        is_odd_bool = isinstance(value, bool) and bool not in kinds
        if value is not None and (is_odd_bool or not isinstance(value, kinds)):
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
    """Refuse a hook under an unknown key: it may make the SAE a transcoder."""
    for key, value in metadata.items():
        if "hook" in str(key).lower() and key not in (*METADATA, *OTHER_HOOKS) and value:
            raise SubjectError(
                f"{where}: unknown key metadata.{key} ({value!r}), a hook by another name; SAELens "
                "names a transcoder's output hook_name_out"
            )


def refuse_shadowing(config: Mapping[str, Any], *, where: str) -> None:
    """Refuse metadata that would shadow a method: SAELens turns its keys into attributes.

    Raises:
        SubjectError: naming the key.
    """
    metadata = config.get("metadata")
    for key in metadata if isinstance(metadata, dict) else ():
        if key in SHADOWED or key.startswith("_"):
            raise SubjectError(f"{where}: metadata.{key} is not a metadata key of an SAE")


def _check_counts(config: Mapping[str, Any], where: str) -> None:
    """Check that k and max_iterations do not exceed the SAE's sizes."""
    d_sae = config["d_sae"]
    if config.get("d_out") is not None:
        check_size(config, "d_out", where=where)
    if config.get("architecture") in CHOOSES_K:
        # Without k, SAELens would use its default of 100.
        k = check_size(_table_with_k(config), "k", where=where)
        if k > d_sae:
            raise SubjectError(f"{where}: k is {k}, but there are {d_sae} features")
    if config.get("max_iterations") is not None:
        steps = check_size(config, "max_iterations", where=where)
        if steps > max(d_sae, config["d_in"]):
            raise SubjectError(f"{where}: max_iterations is {steps}, for {d_sae} features")


def _table_with_k(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return config if "k" in config else config.get("activation_fn_kwargs") or {}


def _refuse_misspelt(config: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    absent = [key for key in known if key not in config and len(key) > 1]
    for key in config:
        close = difflib.get_close_matches(key, absent, n=1, cutoff=ALIKE)
        if key not in known and close:
            raise SubjectError(f"{where}: unknown key {key!r}; did you mean {close[0]!r}?")
