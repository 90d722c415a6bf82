"""A tiny random model of every causal language model that transformers can build.

The families come from transformers' own automatic mapping, so that a new one appears by itself.
"""

import inspect
from dataclasses import dataclass
from typing import Any

import torch

LAYERS, WIDTH, VOCAB, HEADS, KEY_HEADS, HEAD_DIM, CONTEXT = 3, 32, 97, 4, 2, 8, 64
LOUD = 0.3  # standard deviation of a weight: 1.7 / √WIDTH

# Sizes by the names that configurations give them; one is set where a configuration has it.
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": WIDTH, "d_model": WIDTH, "n_embd": WIDTH, "dim": WIDTH,
    "num_hidden_layers": LAYERS, "n_layer": LAYERS, "n_layers": LAYERS, "num_layers": LAYERS,
    "encoder_layers": LAYERS, "decoder_layers": LAYERS, "num_encoder_layers": LAYERS,
    "num_decoder_layers": LAYERS, "num_attention_heads": HEADS, "n_head": HEADS, "n_heads": HEADS,
    "encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS,
    "num_encoder_attention_heads": HEADS, "num_decoder_attention_heads": HEADS,
    "num_heads": HEADS, "attention_heads": HEADS, "depth": LAYERS, "num_blocks": LAYERS,
    "num_key_value_heads": KEY_HEADS, "head_dim": HEAD_DIM, "global_head_dim": 2 * HEAD_DIM,
    "intermediate_size": 48, "n_inner": 48, "mlp_dim": 48,
    "ffn_dim": 48, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "ffn_hidden_size": 48,
    "dim_feedforward": 48, "feed_forward_size": 48, "dff": 48, "dim_ff": 48, "d_inner": 48,
    "max_position_embeddings": CONTEXT, "n_positions": CONTEXT, "max_seq_len": CONTEXT,
    "initializer_range": LOUD, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
    "decoder_start_token_id": 0, "init_std": LOUD,
    "image_size": 32, "patch_size": 8, "num_mel_bins": 16,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4,
    "num_experts_per_tok": 2, "num_experts_per_token": 2, "moe_k": 2, "moe_topk": 2,
    "n_shared_experts": 1, "num_shared_experts": 1, "n_group": 1, "topk_group": 1,
    "num_expert_group": 1, "first_k_dense_replace": 1, "num_dense_layers": 1,
    "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24,
    "moe_shared_expert_intermediate_size": 24, "shared_intermediate_size": 24,
    "expert_ffn_hidden_size": 24, "zero_expert_num": 2,
    "mamba_d_state": 8, "mamba_d_head": 16, "mamba_n_heads": 4, "mamba_n_groups": 1,
    "mamba_expand": 2, "mamba_dt_rank": 4, "mamba_num_heads": 4, "mamba_head_dim": 16,
    "mamba_d_ssm": 64, "n_groups": 1, "use_mamba_kernels": False,
    "mamba_chunk_size": 8, "chunk_size": 8, "state_size": 8, "ssm_state_size": 8,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "linear_head_dim": 8, "linear_num_heads": 4,
    "kv_lora_rank": 16, "q_lora_rank": 16, "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8, "v_head_dim": 8, "sliding_window": 16, "lru_width": WIDTH,
    "attention_chunk_size": 8, "local_attention": 16,
    "is_decoder": True, "tie_word_embeddings": False,
    # Scalars that are 1 by default hide a missing factor.
    "logits_scaling": 2.0, "residual_multiplier": 0.6, "embedding_multiplier": 1.5,
    "final_logit_softcapping": 5.0, "logits_soft_cap": 5.0, "output_logit_soft_cap": 5.0,
}  # fmt: skip

ROPE = {"rope_type": "default", "rope_theta": 10000.0}
PER_LAYER = {
    "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCAB,
    "num_kv_shared_layers": 1, "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
}  # fmt: skip
CONV = {"layer_types": ["conv", "full_attention", "conv"]}
UNTIED = {"num_key_value_heads": HEADS}  # multi-head latent attention has no groups

# What a family needs beside that: its configuration refuses the sizes above, or its model does,
# or its default shows only one kind of layer.
EXTRAS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "blt": {
        "encoder_hash_byte_group_vocab": 50, "cross_attn_k": 1,
        "encoder_config": {"hidden_size_global": WIDTH, "cross_attn_k": 1},
        "decoder_config": {"hidden_size_global": WIDTH, "cross_attn_k": 1},
    },
    "codegen": {"rotary_dim": 4},
    "cohere": {"logit_scale": 0.5},
    "cohere2": {"logit_scale": 0.5},
    "cohere2_moe": {"logit_scale": 0.5},
    "cohere_compass_text": {
        "logit_scale": 0.5, "rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE},
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "cpmant": {"dim_head": 8, "prompt_types": 4, "prompt_length": 4, "segment_types": 4},
    "dbrx": {
        "attn_config": {"rope_theta": 10000.0, "kv_n_heads": KEY_HEADS, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v4": {
        "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8},
    },
    "dots3_note": {
        "text_config": {"per_layer_config": {}, "head_dim": 16, "index_head_dim": 8},
        "vision_config": {"adapter_in_dim": WIDTH, "adapter_out_dim": WIDTH},
        "audio_config": {"adapter_input_size": WIDTH, "adapter_out_dim": WIDTH},
    },
    "electra": {"embedding_size": 24},
    "falcon_h1": {
        "lm_head_multiplier": 0.5, "mlp_multipliers": [0.7, 0.8], "attention_out_multiplier": 0.6,
        "ssm_out_multiplier": 0.7, "key_multiplier": 0.8,
    },
    "gemma3n_text": PER_LAYER | {
        "intermediate_size": [48] * 4, "activation_sparsity_pattern": [0.95, 0.0, 0.0, 0.0],
        "laurel_rank": 8, "altup_num_inputs": 2,
    },
    "gemma4": {"text_config": PER_LAYER},
    "gemma4_text": PER_LAYER,
    "gpt_neo": {"attention_types": [[["global", "local", "global"], 1]], "window_size": 16},
    "gptj": {"rotary_dim": 4},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": CONV,
    "lfm2_moe": CONV,
    "mamba2": {"num_heads": 4, "head_dim": 16},
    "minicpm3": {"scale_emb": 1.5, "dim_model_base": 16},
    "minimax": {"block_size": 8},
    "mllama": {"cross_attention_layers": [2], "num_hidden_layers": 4},
    "nemotron_h": {"layers_block_type": ["linear_attention", "full_attention", "moe", "mlp"]},
    "reformer": {
        "attn_layers": ["local", "lsh", "local"], "axial_pos_shape": [8, 8],
        "axial_pos_embds_dim": [8, 24], "attention_head_size": 8, "local_attn_chunk_length": 8,
        "lsh_attn_chunk_length": 8, "num_buckets": 4, "hash_seed": 0,
    },
    "qwen4_exp": {
        "text_config": {
            "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8,
            "indexer_budget": 64, "indexer_compress_ratio": 4, "hc_count": 2, "hc_lowrank": 8,
        },
    },
    "rembert": {"input_embedding_size": 24, "output_embedding_size": 40},
    "roc_bert": {"pronunciation_embed_dim": 8, "pronunciation_vocab_size": 20,
                 "shape_embed_dim": 8, "shape_vocab_size": 20},
    "xlm": {"causal": True},
    "xlnet": {"d_head": HEAD_DIM},
    "xmod": {"default_language": "en_XX"},
    "xlstm": {"autocast_kernel_dtype": "float32"},
    "zamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid", "linear_attention"],
               "mamba_ngroups": 1, "n_mamba_heads": 4},
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip


DRAFT = "a draft head: it reads another model's hidden states, no token ids"
CODEBOOKS = "its tokens are an audio codec's, and transformers builds it inside its wrapper only"

# What the mapping names that is no language model by itself.
NO_LANGUAGE_MODEL = {
    "gemma4_assistant": DRAFT,
    "gemma4_unified_assistant": DRAFT,
    "musicgen": CODEBOOKS,
    "musicgen_melody": CODEBOOKS,
}

MOST_PARAMETERS = 5_000_000


class NotBuilt(ValueError):
    """A family of which there is no tiny model here, and why."""


class TooLarge(NotBuilt):
    """A configuration has a size under a name that is not known here."""


@dataclass(frozen=True)
class Family:
    """A causal language model of transformers.

    Attributes:
        name: its ``model_type``.
        model: the class that the automatic mapping names.
        also: other types of the mapping that name the same class.
    """

    name: str
    model: str
    also: tuple[str, ...] = ()


def families() -> tuple[Family, ...]:
    """Return every family of transformers' automatic mapping, one for each model class."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    seen: dict[str, list[str]] = {}
    for name, model in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        seen.setdefault(model, []).append(name)
    return tuple(_family(model, names) for model, names in seen.items())


def _family(model: str, names: list[str]) -> Family:
    """Name a model class by the type that its own configuration has, else by the first."""
    own = [name for name in names if _config_class(name).model_type == name]
    first = min(own or names, key=len)
    return Family(first, model, tuple(sorted(set(names) - {first})))


def _config_class(name: str) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return CONFIG_MAPPING[name]


def tiny_config(name: str) -> Any:
    """Return a family's configuration, with every size small."""
    config_class = _config_class(name)
    return config_class(**_merged(_sizes(config_class), EXTRAS.get(name, {})))


def _merged(sizes: dict[str, Any], extras: dict[str, Any]) -> dict[str, Any]:
    """Return sizes with extras, part by part."""
    both = {
        key: _merged(sizes[key], value)
        for key, value in extras.items()
        if isinstance(value, dict) and isinstance(sizes.get(key), dict)
    }
    return sizes | extras | both


def _sizes(config_class: Any) -> dict[str, Any]:
    """Return the sizes that a configuration knows, and those of its parts."""
    accepted = set(inspect.signature(config_class.__init__).parameters)
    accepted |= set(getattr(config_class, "__dataclass_fields__", {}))
    accepted |= set(config_class.attribute_map)
    own_name = config_class.attribute_map
    found = {own_name.get(key, key): value for key, value in SIZES.items() if key in accepted}
    if "kv_lora_rank" in found:
        found |= UNTIED
    for part, inner in _parts(config_class).items():
        found[part] = _sizes(inner) | {"model_type": inner.model_type}
    return found | _kinds_of_layers(config_class, accepted)


def _parts(config_class: Any) -> dict[str, Any]:
    """Return the configuration classes of a configuration's parts, by its own default."""
    parts = getattr(config_class, "sub_configs", {})
    if not parts:
        return {}
    default = config_class()
    inner = {part: type(getattr(default, part, None)) for part in parts}
    return {part: found for part, found in inner.items() if hasattr(found, "model_type")}


def _kinds_of_layers(config_class: Any, accepted: set[str]) -> dict[str, Any]:
    """Return a list of layers' kinds in which each of the default's first kinds is there."""
    found: dict[str, Any] = {}
    for key in {"layer_types", "mlp_layer_types"} & accepted:
        kinds = list(dict.fromkeys(getattr(config_class(), key, None) or ()))
        is_computed = isinstance(
            getattr(config_class, config_class.attribute_map.get(key, key), None), property
        )
        if len(kinds) > 1 and not is_computed:
            found[key] = [kinds[i % len(kinds)] for i in range(LAYERS)]
    return found


def tiny_model(name: str, *, seed: int = 0) -> Any:
    """Return a random model, in evaluation mode, loud enough for a mistake to show."""
    from transformers import AutoModelForCausalLM

    if name in NO_LANGUAGE_MODEL:
        raise NotBuilt(NO_LANGUAGE_MODEL[name])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = tiny_config(name)
        with torch.device("meta"):
            size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
        if size > MOST_PARAMETERS:
            raise TooLarge(f"{name}: {size:,} parameters with every known size small")
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        _make_loud(model)
        model.config.architectures = [type(model).__name__]  # as in a saved configuration
        return model


@torch.no_grad()
def _make_loud(model: Any) -> None:
    """Move weights that start at 0 or 1, and scale quiet matrices to what training leaves."""
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape)
        if parameter.dim() < 2:
            parameter.add_(0.2 * noise)
        elif (spread := parameter.std().item()) < 1e-6:
            parameter.add_(LOUD * noise)
        elif spread < 0.7 * LOUD:
            mean = parameter.mean()
            parameter.sub_(mean).mul_(LOUD / spread).add_(mean)
    for buffer in _learnt_buffers(model):
        buffer.mul_(1 + LOUD * torch.randn(buffer.shape))


def _learnt_buffers(model: Any) -> list[torch.Tensor]:
    """Return what is saved beside the parameters, such as a layer's scalar: 1 until trained."""
    own = dict(model.named_parameters(remove_duplicate=False))
    saved = model.state_dict(keep_vars=True).items()
    return [value for name, value in saved if name not in own and value.is_floating_point()]
