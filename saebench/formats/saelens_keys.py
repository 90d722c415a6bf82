"""Versions that configurations name."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from saebench.errors import SubjectError, nearest


def is_before(version: Any, other: tuple[int, ...]) -> bool:
    """Return whether a version is known and before another one; 6.0.0-rc.0 is 6.

    Example:
        >>> is_before("5.10.7", (6,)), is_before("6.0.0", (6,)), is_before(None, (6,))
        (True, False, False)
    """
    found = re.match(r"\d+(?:\.\d+)*", version) if isinstance(version, str) else None
    return found is not None and tuple(map(int, found[0].split("."))) < other


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
# What names of the forward pass have in them: an unknown key with one of these may change it.
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


def check_keys(
    config: Mapping[str, Any], *, where: str, known: frozenset[str] | set[str] = _KNOWN
) -> tuple[str, ...]:
    """Return notes on keys that are not honoured.

    Args:
        config: the configuration.
        where: what messages call it.
        known: the keys that are; SAELens' where nothing else is said.

    Raises:
        SubjectError: for keys that would change what the SAE computes, and unknown ones whose
            names say that they might.
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
    # A slice of positions is told by whoever reads the metadata: it lies there since SAELens 6.
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
