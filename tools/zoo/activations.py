"""Activations of the zoo's model at TransformerLens' hook names, by torch hooks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
    hook_names: Sequence[str],
    corpus_seed: int,
    n: int,
    batch_sequences: int = 256,
) -> dict[str, Tensor]:
    """Return the first `n` activations `[n, d_in]` at each hook, from one pass of the model.

    Position 0 and padding are left out. Sequences are the first `SAE_CONTEXT` tokens of each
    story, BOS included.
    """
    gathered: dict[str, Tensor] = {}
    start = filled = 0
    with tqdm(total=n, desc="activations", mininterval=1) as bar:
        while filled < n:
            stories = batches.story_ids(
                tokenizer, corpus_seed, start=start, n=batch_sequences, context=SAE_CONTEXT
            )
            found = at_hooks(model, hook_names, *batches.pad(stories))
            added = _fill(gathered, found, start=filled, n=n)
            filled += added
            start += batch_sequences
            bar.update(added)
    return gathered


def _fill(gathered: dict[str, Tensor], found: dict[str, Tensor], *, start: int, n: int) -> int:
    """Copy rows to `start` and on, up to row `n`; return how many."""
    for hook_name, rows in found.items():
        if hook_name not in gathered:
            gathered[hook_name] = rows.new_empty(n, rows.shape[1])
        gathered[hook_name][start : start + len(rows)] = rows[: n - start]
    return min(n - start, len(next(iter(found.values()))))


@torch.no_grad()
def activations(model: GPT2LMHeadModel, hook_name: str, ids: Tensor, labels: Tensor) -> Tensor:
    """Return the activations `[tokens, d_in]` of all real tokens after position 0."""
    return at_hooks(model, [hook_name], ids, labels)[hook_name]


@torch.no_grad()
def at_hooks(
    model: GPT2LMHeadModel, hook_names: Sequence[str], ids: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """Return the activations `[tokens, d_in]` of all real tokens after position 0, by hook."""
    real = labels != batches.IGNORED
    real[:, 0] = False
    recorded: dict[str, Tensor] = {}

    def recorder(hook_name: str) -> Edit:
        def record(activation: Tensor) -> Tensor:
            recorded[hook_name] = activation[real]
            return activation

        return record

    with ExitStack() as hooks:
        for hook_name in hook_names:
            hooks.enter_context(edited(model, hook_name, recorder(hook_name)))
        model.transformer(input_ids=ids)
    return recorded


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
