"""The recipe of the zoo: the constants of its model, SAEs and training, and their hash."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field

from saebench.zoo import corpus

MODEL_NAME = "saebench-demo"
DATASET_NAME = "saebench-demo-stories"
SAE_CONTEXT = 64
HASHED_STORIES = 32
PUBLISHED_L0_SHARE = (0.02, 0.1)
"""About the fewest and the most active features, by width, of SAEs of GPT-2 small (Anders & Bloom
2024, l0 of 13 to 72 at a width of 768)."""
L0_TARGET = 8
"""A sixteenth of the model's width, within the published range. Each strength of sparsity below is
the one of 1, 1.5, 2, 3, 5 and 7 times a power of ten that came near it, whatever the verdicts."""


@dataclass(frozen=True)
class Lesson:
    """A phase of the model's training; every `rhyme_every`th of its texts is a rhyme."""

    steps: int
    context: int
    batch_tokens: int
    rhyme_every: int


@dataclass(frozen=True)
class ModelRecipe:
    """Shape and training of the host model."""

    n_layer: int = 4
    d_model: int = 128
    n_head: int = 4
    n_positions: int = 256
    lessons: tuple[Lesson, ...] = (Lesson(900, 64, 2048, 3), Lesson(1900, 256, 4096, 6))
    warmup_steps: int = 200
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    pool_documents: int = 512
    init_std: float = 0.05
    init_position_amplitude: float = 0.1

    @property
    def steps(self) -> int:
        """The number of optimiser steps of all lessons."""
        return sum(lesson.steps for lesson in self.lessons)


@dataclass(frozen=True)
class SaeTraining:
    """Training settings that all SAEs of the zoo share."""

    d_sae: int = 512
    n_activations: int = 1_000_000
    batch_size: int = 512
    steps: int = 5000
    learning_rate: float = 2e-3
    warmup_steps: int = 250
    decay_steps: int = 1250


@dataclass(frozen=True)
class SaeRecipe:
    """One SAE of the zoo: its hook, and SAELens' options for training it."""

    name: str
    hook_name: str
    architecture: str
    options: dict[str, float] = field(default_factory=dict)
    summary: str = ""


MODEL = ModelRecipe()
SAE_TRAINING = SaeTraining()
_RESIDUAL = "blocks.{}.hook_resid_pre"
_L2 = _RESIDUAL.format(2)

SAES = (
    SaeRecipe(
        "l0-standard",
        _RESIDUAL.format(0),
        "standard",
        {"l1_coefficient": 0.15},
        "L1 on the embeddings; the worst beyond its training context",
    ),
    SaeRecipe(
        "l1-standard",
        _RESIDUAL.format(1),
        "standard",
        {"l1_coefficient": 2.0},
        "L1 on the residual stream after one block",
    ),
    SaeRecipe(
        "l2-standard",
        _L2,
        "standard",
        {"l1_coefficient": 3.0},
        "L1 on the residual stream after two blocks",
    ),
    SaeRecipe(
        "l3-standard",
        _RESIDUAL.format(3),
        "standard",
        {"l1_coefficient": 3.0},
        "L1 on the residual stream before the last block",
    ),
    SaeRecipe(
        "l1-attn-z",
        "blocks.1.attn.hook_z",
        "standard",
        {"l1_coefficient": 1.5},
        "L1 on the attention heads' outputs, all heads together",
    ),
    SaeRecipe(
        "l1-mlp-out",
        "blocks.1.hook_mlp_out",
        "standard",
        {"l1_coefficient": 1.5},
        "L1 on an MLP's output",
    ),
    SaeRecipe(
        "l2-dense",
        _L2,
        "standard",
        {"l1_coefficient": 0.3},
        "an L1 far too weak: many features, yet less faithful than as many principal "
        "components; a gate should fail it",
    ),
    SaeRecipe(
        "l2-shrunken",
        _L2,
        "standard",
        {"l1_coefficient": 7.0},
        "an L1 far too strong: reconstructions are plainly too short, and a gate should fail it",
    ),
    SaeRecipe("l2-topk", _L2, "topk", {"k": 8}, "exactly k features a token"),
    SaeRecipe(
        "l2-batchtopk",
        _L2,
        "batchtopk",
        {"k": 8.0},
        "k features a token on average; shipped as JumpReLU, as SAELens saves it",
    ),
    SaeRecipe(
        "l2-jumprelu",
        _L2,
        "jumprelu",
        {"l0_coefficient": 2.0, "jumprelu_bandwidth": 1.0, "jumprelu_init_threshold": 0.5},
        "JumpReLU with an L0 penalty",
    ),
    SaeRecipe(
        "l2-gated",
        _L2,
        "gated",
        {"l1_coefficient": 3.0},
        "gated: L1 decides which features fire, not how strongly",
    ),
)


def recipe_hash(*, seed: int = 0) -> str:
    """Return the hash of the recipe's constants and of sample stories."""
    constants = [asdict(part) for part in (MODEL, SAE_TRAINING, *SAES)]
    stories = [
        corpus.document(corpus.split_seed(split, seed=seed), index)
        for split in corpus.SPLITS
        for index in range(HASHED_STORIES)
    ]
    text = json.dumps([constants, stories, SAE_CONTEXT, seed], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
