"""SAELens' own run_evals on given token ids, with the masks that saebench has."""

from typing import Any

import torch

from saebench.data.tokens import TokenSet
from saebench.subjects.host_loading import load_host

SEQUENCES, CONTEXT, BATCH = 24, 64, 8


class _Store:
    """The part of SAELens' ActivationsStore that run_evals uses, over given token ids."""

    context_size = CONTEXT
    store_batch_size_prompts = BATCH

    def __init__(self, ids: torch.Tensor) -> None:
        self.ids = ids
        self.reset_input_dataset()

    def reset_input_dataset(self) -> None:
        self._batches = iter(self.ids.split(BATCH))

    def get_batch_tokens(self, batch_size: int) -> torch.Tensor:
        assert batch_size == BATCH
        return next(self._batches)


def run_evals_on(model: str, directory: str, host: Any, tokens: TokenSet) -> Any:
    """Return SAELens' metrics of an SAE, those by feature under ``features``."""
    from sae_lens import SAE
    from sae_lens.evals import get_eval_everything_config, run_evals
    from sae_lens.training.activation_scaler import ActivationScaler
    from transformer_lens.model_bridge import TransformerBridge

    # The Bridge takes a model over: it gets one of its own.
    own = load_host(model, device="cpu", dtype="float32", asked_by="test")
    bridge = TransformerBridge.boot_transformers(
        model, hf_model=own.model, tokenizer=own.tokenizer, device="cpu"
    )
    batches = SEQUENCES // BATCH
    metrics, features = run_evals(
        SAE.load_from_disk(directory),
        _Store(tokens.ids),
        bridge,
        ActivationScaler(),
        get_eval_everything_config(BATCH, batches, batches),
        exclude_special_tokens=sorted(host.special_ids),
    )
    return metrics | {"features": features}
