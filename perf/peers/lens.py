"""TransformerLens' models of a saved GPT-2, and token ids in the form that SAELens reads.

Peers in an environment of their own import this too: it imports nothing of saebench.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor


class TokenStore:
    """The part of SAELens' ActivationsStore that its evaluations use, over given token ids."""

    def __init__(self, ids: Int[Tensor, "sequences context"], *, batch: int) -> None:
        self.ids = ids
        self.context_size = ids.shape[1]
        self.store_batch_size_prompts = batch
        self.reset_input_dataset()

    def reset_input_dataset(self) -> None:
        """Begin again with the first sequence."""
        self._batches = iter(self.ids.split(self.store_batch_size_prompts))

    def get_batch_tokens(self, batch_size: int) -> Int[Tensor, "batch context"]:
        """Return the next sequences.

        Raises:
            ValueError: for another batch size than the store was made for.
        """
        if batch_size != self.store_batch_size_prompts:
            raise ValueError(f"batches of {self.store_batch_size_prompts}, not {batch_size}")
        return next(self._batches)


def hooked_transformer(directory: Path, *, device: str = "cpu") -> Any:
    """Return a saved GPT-2 as HookedTransformer, its weights unprocessed.

    ``HookedTransformer.from_pretrained`` refuses names and directories that it does not know;
    these are its own steps.
    """
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = AutoModelForCausalLM.from_pretrained(directory)
    told = source.config
    config = HookedTransformerConfig(
        n_layers=told.n_layer,
        d_model=told.n_embd,
        n_ctx=told.n_positions,
        d_head=told.n_embd // told.n_head,
        n_heads=told.n_head,
        d_mlp=4 * told.n_embd,
        d_vocab=told.vocab_size,
        act_fn=told.activation_function,
        eps=told.layer_norm_epsilon,
        normalization_type="LN",
        device=device,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = HookedTransformer(config, tokenizer=AutoTokenizer.from_pretrained(directory))
    model.load_and_process_state_dict(
        convert_gpt2_weights(source, config),
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    return model.eval()


def bridge(directory: Path, *, device: str = "cpu") -> Any:
    """Return a saved model as TransformerBridge."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TransformerBridge.boot_transformers(
            str(directory), tokenizer=tokenizer, device=device, dtype=torch.float32
        )
