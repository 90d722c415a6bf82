"""Small random models of several architectures, hosts of them, and SAEs and tokens for them."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

VOCAB, WIDTH, LAYERS, HEADS, KEY_HEADS = 97, 32, 3, 4, 2
BOS, EOS = 0, 1
FAMILIES = ("gpt2", "llama", "gpt_neox", "gemma2", "qwen2")


@dataclass(frozen=True)
class StubTokenizer:
    """The three ids that a host asks its tokenizer for, and words for all ids."""

    bos_token_id: int | None = 0
    eos_token_id: int | None = 1
    pad_token_id: int | None = None

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(f" w{i}" for i in ids)


def make_model(family: str, *, seed: int = 0, **changes: Any) -> Any:
    """Return a random model in evaluation mode; the global generator is left as it was."""
    import transformers as t

    sizes = {
        "vocab_size": VOCAB, "hidden_size": WIDTH, "intermediate_size": 48,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "max_position_embeddings": 64,
        "initializer_range": 0.3, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
    }  # fmt: skip
    keyed = sizes | {"num_key_value_heads": KEY_HEADS}
    made = {
        "gpt2": (t.GPT2LMHeadModel, t.GPT2Config, sizes),
        "llama": (t.LlamaForCausalLM, t.LlamaConfig, keyed),
        "gpt_neox": (t.GPTNeoXForCausalLM, t.GPTNeoXConfig, sizes | {"rotary_pct": 0.5}),
        "gemma2": (
            t.Gemma2ForCausalLM, t.Gemma2Config, keyed | {"head_dim": 8, "sliding_window": 16}
        ),
        "qwen2": (t.Qwen2ForCausalLM, t.Qwen2Config, keyed),
    }  # fmt: skip
    model_class, config_class, options = made[family]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config_class(**(options | changes))).eval()
        _shake_norms_and_biases(model)
        return model


@torch.no_grad()
def _shake_norms_and_biases(model: Any) -> None:
    """Move weights that start at 0 or 1: a mistake with them must show."""
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.add_(0.2 * torch.randn(parameter.shape))


def make_host(family: str, *, seed: int = 0, **changes: Any) -> Any:
    """Return a host of a random model."""
    from saebench.subjects.host import Host

    return Host(make_model(family, seed=seed, **changes), StubTokenizer(), name=family)


@cache
def host_of(family: str) -> Any:
    """Return the family's host, one for all tests: for those that leave it as it was."""
    return make_host(family)


def random_ids(sequences: int, context: int, *, seed: int = 0) -> torch.Tensor:
    """Return random token ids, BOS first, without special ids after it."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCAB, (sequences, context), generator=generator)
    ids[:, 0] = 0
    return ids


def make_tokens(ids: Tensor, counted: Tensor | None = None) -> Any:
    """Return a token set; unless given, position 0 and special tokens do not count."""
    from saebench.data.tokens import TokenSet
    from saebench.options import Packing

    if counted is None:
        counted = (torch.arange(ids.shape[1]) > 0) & (ids != BOS) & (ids != EOS)
    return TokenSet(ids, counted, Packing.DOCUMENTS, len(ids), 0)


def make_sae(d: int = WIDTH, *, seed: int = 0, copies: int = 1) -> Any:
    """Return a StandardSAE that reconstructs roughly, with features that fire sparsely."""
    from sae_lens import StandardSAE, StandardSAEConfig

    generator = torch.Generator().manual_seed(seed)
    sae = StandardSAE(StandardSAEConfig(d_in=d, d_sae=2 * d * copies))
    turned = torch.linalg.qr(torch.randn(d, d, generator=generator))[0]
    both = torch.cat([turned, -turned]).repeat(copies, 1)
    noise = torch.randn(both.shape, generator=generator)
    with torch.no_grad():
        sae.W_enc.copy_(both.T + 0.1 * noise.T / d**0.5)
        sae.W_dec.copy_((0.9 * both + 0.5 * noise / d**0.5) / copies)
        sae.b_enc.fill_(-0.2)
        sae.b_dec.copy_(0.1 * noise[0])
    return sae


class Identity(nn.Module):
    """An SAE that changes nothing."""

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, features: Tensor) -> Tensor:
        return features


def make_subject(
    sae: nn.Module, hook: str, *, id: str = "sae", head: int | None = None, context: int = 16
) -> Any:
    """Return an SAE as the engines take it, at a hook or at one head of it."""
    from saebench.formats.metadata import SubjectMetadata
    from saebench.subjects.sae import Subject

    metadata = SubjectMetadata(hook, None, context, True, head, False, False, None)
    return Subject(sae, id=id, source=id, metadata=metadata)


def hooks_on(model: nn.Module) -> int:
    """Count the hooks and the replaced forwards of a model's modules."""
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + ("forward" in m.__dict__)
        for m in model.modules()
    )


def assert_same_sums(found: Any, expected: Any, *, rtol: float, atol: float = 0.0) -> None:
    """Compare two measurements' per-sequence sums, channel by channel.

    Other batches and stacks take other matrix kernels: some roundings of fp32.
    """
    table = expected.table()
    assert found.table().keys() == table.keys()
    for channel, values in found.table().items():
        np.testing.assert_allclose(values, table[channel], rtol=rtol, atol=atol, err_msg=channel)
