"""The zoo's sparse autoencoders, trained by SAELens' own trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from sae_lens import (
    SAE,
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    GatedTrainingSAE,
    GatedTrainingSAEConfig,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.saes.sae import SAEMetadata, TrainingSAE
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

from saebench.zoo.recipe import (
    DATASET_NAME,
    MODEL_NAME,
    SAE_CONTEXT,
    SAE_TRAINING,
    SaeRecipe,
    SaeTraining,
)

_CLASSES: dict[str, tuple[type[TrainingSAE[Any]], type[Any]]] = {
    "standard": (StandardTrainingSAE, StandardTrainingSAEConfig),
    "topk": (TopKTrainingSAE, TopKTrainingSAEConfig),
    "batchtopk": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig),
    "jumprelu": (JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig),
    "gated": (GatedTrainingSAE, GatedTrainingSAEConfig),
}


def train_sae(
    recipe: SaeRecipe,
    activations: Tensor,
    *,
    seed: int,
    training: SaeTraining = SAE_TRAINING,
    after_steps: Callable[[int, TrainingSAE[Any]], None] | None = None,
) -> TrainingSAE[Any]:
    """Return an SAE trained on `activations` `[n, d_in]`, gone through in random order.

    The decoder's bias starts at their mean (Bricken et al. 2023). `after_steps` is called with the
    number of steps done, before each further one.
    """
    sae = _new_sae(recipe, d_in=activations.shape[1], seed=seed, training=training)
    # So the first features need not spend themselves on what all tokens have in common.
    sae.b_dec.data = activations.mean(0)
    generator = torch.Generator().manual_seed(seed)
    stream = _shuffled(activations, batch_size=training.batch_size, generator=generator)
    if after_steps is not None:
        stream = _told(stream, sae, after_steps)
    trainer = SAETrainer(_trainer_config(training), sae, data_provider=stream)
    trainer.fit()
    return sae.eval()


def save_sae(sae: TrainingSAE[Any], directory: Path) -> None:
    """Write `sae` as the inference directory that `SAE.load_from_disk` reads."""
    if str(sae.cfg.metadata.hook_name).endswith("hook_z"):
        # Only now: SAELens trains on flattened heads, and loads expecting [..., head, d_head].
        sae.cfg.reshape_activations = "hook_z"
    sae.save_inference_model(directory)


def load_sae(directory: Path) -> SAE[Any]:
    """Return the SAE in `directory`, ready for flat `[..., d_in]` activations."""
    sae = SAE.load_from_disk(directory)
    sae.turn_off_forward_pass_hook_z_reshaping()
    return sae.eval()


def _new_sae(recipe: SaeRecipe, *, d_in: int, seed: int, training: SaeTraining) -> TrainingSAE[Any]:
    sae_class, config_class = _CLASSES[recipe.architecture]
    config = config_class(
        d_in=d_in,
        d_sae=training.d_sae,
        normalize_activations="none",
        metadata=_metadata(recipe),
        **recipe.options,
    )
    # SAELens draws initial weights from the global generator.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return sae_class(config)


def _metadata(recipe: SaeRecipe) -> SAEMetadata:
    return SAEMetadata(
        model_name=MODEL_NAME,
        model_class_name="HookedTransformer",
        hook_name=recipe.hook_name,
        hook_head_index=None,
        context_size=SAE_CONTEXT,
        prepend_bos=True,
        dataset_path=DATASET_NAME,
        exclude_special_tokens=True,
    )


def _trainer_config(training: SaeTraining) -> SAETrainerConfig:
    return SAETrainerConfig(
        total_training_samples=training.steps * training.batch_size,
        train_batch_size_samples=training.batch_size,
        lr=training.learning_rate,
        lr_end=training.learning_rate / 10,
        lr_warm_up_steps=training.warmup_steps,
        lr_decay_steps=training.decay_steps,
        dead_feature_window=300,
        feature_sampling_window=max(1, training.steps * 3 // 4),  # l0 is that of the last quarter
        logger=LoggingConfig(log_to_wandb=False),
    )


def _told(
    stream: Iterator[Tensor], sae: TrainingSAE[Any], after_steps: Callable[[int, Any], None]
) -> Iterator[Tensor]:
    for step, batch in enumerate(stream):
        after_steps(step, sae)
        yield batch


def _shuffled(
    activations: Tensor, *, batch_size: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Yield batches of rows without end, each row once an epoch."""
    while True:
        order = torch.randperm(len(activations), generator=generator)
        for rows in order.split(batch_size):
            if len(rows) == batch_size:
                yield activations[rows]
