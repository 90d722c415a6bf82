"""The zoo's host model: a four-layer GPT-2, trained on stories from position 0."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from saebench.zoo import corpus
from saebench.zoo.recipe import MODEL, ModelRecipe
from tools.zoo import batches
from tools.zoo.tokenizer import BOS_ID

LESSON_TEXTS = 10**9  # more than a lesson reads, so that no lesson reads another's texts


def new_model(tokenizer: PreTrainedTokenizerFast, *, seed: int) -> GPT2LMHeadModel:
    """Return the untrained model; its initial weights depend on `seed` alone."""
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=MODEL.n_positions,
        n_embd=MODEL.d_model,
        n_layer=MODEL.n_layer,
        n_head=MODEL.n_head,
        initializer_range=MODEL.init_std,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        bos_token_id=BOS_ID,
        eos_token_id=BOS_ID,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(config)
    with torch.no_grad():
        model.transformer.wpe.weight.copy_(MODEL.init_position_amplitude * _sinusoids())
    return model


def train_model(
    model: GPT2LMHeadModel,
    tokenizer: PreTrainedTokenizerFast,
    *,
    seed: int,
    steps: int = MODEL.steps,
    recipe: ModelRecipe = MODEL,
) -> list[float]:
    """Train `model` in place for the recipe's first `steps`; return each step's loss in nats."""
    optimizer = _optimizer(model, recipe)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        recipe.learning_rate,
        total_steps=recipe.steps,
        pct_start=recipe.warmup_steps / recipe.steps,
        cycle_momentum=False,
    )
    stream = _batches(tokenizer, recipe, seed=seed)
    losses = []
    model.train()
    with tqdm(total=steps, desc="model", mininterval=1) as bar:
        for _ in range(steps):
            losses.append(_step(model, optimizer, *next(stream)))
            schedule.step()
            bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
            bar.update()
    model.eval()
    return losses


def _sinusoids() -> Tensor:
    """Return `[position, d_model]` sines and cosines, the initial values of learned positions."""
    frequencies = torch.logspace(
        0, -math.log10(2 * MODEL.n_positions), MODEL.d_model // 2, dtype=torch.float32
    )
    angles = torch.arange(MODEL.n_positions)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _optimizer(model: GPT2LMHeadModel, recipe: ModelRecipe) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))


def _batches(
    tokenizer: PreTrainedTokenizerFast, recipe: ModelRecipe, *, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of the recipe's lessons.

    Without rhymes the loss stays on a plateau for longer than the whole training takes; on rhymes
    heads that copy from context form within minutes, and stories then use them.
    """
    corpus_seed = corpus.split_seed("train", seed=seed)
    for number, lesson in enumerate(recipe.lessons):
        stream = batches.training_batches(
            tokenizer,
            corpus.lesson_texts(corpus_seed, lesson.rhyme_every, start=number * LESSON_TEXTS),
            context=lesson.context,
            batch_tokens=lesson.batch_tokens,
            pool_documents=recipe.pool_documents,
            generator=torch.Generator().manual_seed(seed),
        )
        yield from itertools.islice(stream, lesson.steps)


def _step(
    model: GPT2LMHeadModel, optimizer: torch.optim.AdamW, ids: Tensor, labels: Tensor
) -> float:
    logits = model(input_ids=ids).logits[:, :-1]
    loss = cross_entropy(
        logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=batches.IGNORED
    )
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()
