"""Activations of the zoo's model at TransformerLens' hook names, by torch hooks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from tqdm import tqdm
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from saebench.zoo.recipe import SAE_CONTEXT
from tools.zoo import batches

Edit = Callable[[Tensor], Tensor]

_HOOK = re.compile(r"blocks\.(\d+)\.(hook_resid_pre|attn\.hook_z|hook_mlp_out)")


@contextmanager
def edited(model: GPT2LMHeadModel, hook_name: str, edit: Edit) -> Iterator[None]:
    """Replace the activation at `hook_name` by `edit(activation)` while the context lasts."""
    handle = _attach(model, hook_name, edit)
    try:
        yield
    finally:
        handle.remove()


def collect(
    model: GPT2LMHeadModel,
    tokenizer: PreTrainedTokenizerFast,
    *,
    hook_name: str,
    corpus_seed: int,
    n: int,
    batch_sequences: int = 256,
) -> Tensor:
    """Return the first `n` activations at `hook_name`, position 0 and padding left out.

    Sequences are the first `SAE_CONTEXT` tokens of each story, BOS included.
    """
    chunks: list[Tensor] = []
    start = gathered = 0
    with tqdm(total=n, desc=hook_name, mininterval=1) as bar:
        while gathered < n:
            stories = batches.story_ids(
                tokenizer, corpus_seed, start=start, n=batch_sequences, context=SAE_CONTEXT
            )
            chunks.append(activations(model, hook_name, *batches.pad(stories)))
            start += batch_sequences
            gathered += len(chunks[-1])
            bar.update(len(chunks[-1]))
    return torch.cat(chunks)[:n]


@torch.no_grad()
def activations(model: GPT2LMHeadModel, hook_name: str, ids: Tensor, labels: Tensor) -> Tensor:
    """Return the activations `[tokens, d_in]` of all real tokens after position 0."""
    recorded: list[Tensor] = []

    def record(activation: Tensor) -> Tensor:
        recorded.append(activation)
        return activation

    with edited(model, hook_name, record):
        model.transformer(input_ids=ids)
    real = labels != batches.IGNORED
    real[:, 0] = False
    return recorded[0][real]


def _attach(model: GPT2LMHeadModel, hook_name: str, edit: Edit) -> RemovableHandle:
    match = _HOOK.fullmatch(hook_name)
    if match is None:
        raise ValueError(f"hook {hook_name!r}: expected resid_pre, attn.hook_z or mlp_out")
    block: Any = model.transformer.h[int(match[1])]
    if match[2] == "hook_mlp_out":
        return block.mlp.register_forward_hook(lambda _module, _args, output: edit(output))
    reader = block if match[2] == "hook_resid_pre" else block.attn.c_proj

    def before(_module: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (edit(args[0]), *args[1:])

    return reader.register_forward_pre_hook(before)
