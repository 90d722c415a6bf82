"""The random model, SAEs and tokens that ours and the peers measure alike."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from perf.flops import ModelShape, Product, Work, products
from perf.settings import Settings, Size, resid_pre
from saebench.data.tokens import TokenSet
from saebench.options import Overrides, Packing
from saebench.subjects.host import Host
from saebench.subjects.host_loading import load_host
from saebench.subjects.loading import wrap_sae
from saebench.subjects.sae import Subject

MODEL, SAE, IDS = "model", "sae", "ids.pt"
BOS = "<|endoftext|>"
SCALED_ON = 8  # sequences on which an SAE's threshold and scale are fitted


@dataclass(frozen=True)
class Workload:
    """A directory with a model, an SAE and tokens, and the objects loaded from it.

    Attributes:
        settings: the run's options.
        directory: peers in processes of their own read it.
    """

    settings: Settings
    directory: Path

    @property
    def size(self) -> Size:
        """The sizes."""
        return self.settings.sizes

    @property
    def shape(self) -> ModelShape:
        """The model's sizes, for counting."""
        size = self.size
        d_head = size.d_model // size.heads
        return ModelShape(size.layers, size.d_model, size.d_mlp, size.heads, d_head, size.vocab)

    @property
    def bos(self) -> int:
        """The id that every sequence begins with; no other token has it."""
        return self.size.vocab - 1

    @cached_property
    def host(self) -> Host:
        """Our host."""
        return load_host(
            str(self.directory / MODEL), device=self.device, dtype="float32", asked_by="perf"
        )

    @cached_property
    def sae(self) -> Any:
        """The SAE of most cases, a SAELens object."""
        from sae_lens import SAE as Sae  # noqa: N814

        return Sae.load_from_disk(str(self.directory / SAE), device=self.device)

    @cached_property
    def ids(self) -> Int[Tensor, "sequences context"]:
        """The tokens of most cases."""
        return torch.load(self.directory / IDS)

    @property
    def device(self) -> str:
        """Where ours and the peers run."""
        return self.settings.device

    @property
    def ids_there(self) -> Int[Tensor, "sequences context"]:
        """The tokens where the peers want them."""
        return self.ids.to(self.device)

    def products(
        self,
        *,
        resumed_from: tuple[int, ...],
        resumed_once: tuple[int, ...] = (),
        saes: int = 1,
        ids: Tensor | None = None,
    ) -> tuple[Product, ...]:
        """Return the matrix products of a measurement of the tokens, or of others."""
        size = self.size
        sequences, context = (self.ids if ids is None else ids).shape
        work = Work(sequences, context, resumed_from, saes, size.d_sae, size.active, resumed_once)
        return products(self.shape, work)

    def random_sae(self, layer: int, *, seed: int) -> Any:
        """Return another SAE, at any block's input."""
        some = self.ids_there[:SCALED_ON]
        activations = activations_at(self.host.model, some, layer).cpu()
        made = make_sae(self.size, activations, hook=resid_pre(layer), seed=seed)
        return made.to(self.device)


@contextmanager
def workload(settings: Settings) -> Iterator[Workload]:
    """Make the model, the SAE and the tokens, in a directory that goes with the context."""
    with TemporaryDirectory(prefix="saebench-perf-") as directory:
        made = Workload(settings, Path(directory))
        size = settings.sizes
        model = make_model(size, seed=settings.seed)
        model.save_pretrained(made.directory / MODEL)
        make_tokenizer(size).save_pretrained(made.directory / MODEL)
        ids = random_ids(size, size.sequences, size.context, seed=settings.seed)
        torch.save(ids, made.directory / IDS)
        activations = activations_at(model, ids[:SCALED_ON], size.hook_layer)
        sae = make_sae(size, activations, hook=size.hook, seed=settings.seed)
        sae.save_model(made.directory / SAE)
        yield made


def make_model(size: Size, *, seed: int) -> Any:
    """Return a GPT-2 with random weights; the global generator is left as it was."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=size.layers, n_embd=size.d_model, n_head=size.heads, vocab_size=size.vocab,
        n_positions=size.positions, bos_token_id=size.vocab - 1, eos_token_id=size.vocab - 1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return GPT2LMHeadModel(config).eval()


def make_tokenizer(size: Size) -> Any:
    """Return a tokenizer of the words w0, w1, … with GPT-2's one special token at the end."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = [*(f"w{i}" for i in range(size.vocab - 1)), BOS]
    ids = {name: i for i, name in enumerate(names)}
    inner = Tokenizer(models.WordLevel(ids, unk_token=BOS))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=BOS, eos_token=BOS, unk_token=BOS
    )


def random_ids(
    size: Size, sequences: int, context: int, *, seed: int
) -> Int[Tensor, "sequences context"]:
    """Return random sequences, BOS first and nowhere else."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(size.vocab - 1, (sequences, context), generator=generator)
    ids[:, 0] = size.vocab - 1
    return ids


@torch.inference_mode()
def activations_at(
    model: Any, ids: Int[Tensor, "sequences context"], layer: int
) -> Float[Tensor, "tokens d"]:
    """Return a block's input at every token but the first of each sequence."""
    return (
        model.transformer(ids, output_hidden_states=True).hidden_states[layer][:, 1:].flatten(0, 1)
    )


@torch.no_grad()
def make_sae(size: Size, x: Float[Tensor, "tokens d"], *, hook: str, seed: int) -> Any:
    """Return a SAELens standard SAE with random unit directions and a realistic sparsity.

    One threshold for all features lets ``size.active`` of them fire at a token, on average; the
    encoder's scale makes the reconstruction the best multiple of what the directions give.
    """
    from sae_lens import StandardSAE, StandardSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    told = SAEMetadata(
        model_name="gpt2", hook_name=hook, context_size=size.context, prepend_bos=True
    )
    sae = StandardSAE(StandardSAEConfig(d_in=size.d_model, d_sae=size.d_sae, metadata=told))
    directions = torch.randn(sae.W_dec.shape, generator=torch.Generator().manual_seed(seed))
    directions /= directions.norm(dim=-1, keepdim=True)
    centre = x.mean(dim=0)
    scores = (x - centre) @ directions.T
    threshold = scores.flatten().kthvalue(scores.numel() - size.active * len(x)).values
    output = scores.sub_(threshold).relu_() @ directions
    scale = (output * (x - centre)).sum() / output.square().sum()
    sae.W_dec.copy_(directions)
    sae.W_enc.copy_(scale * directions.T)
    sae.b_enc.fill_(-scale * threshold)
    sae.b_dec.copy_(centre)
    return sae


def as_subject(sae: Any, *, id: str) -> Subject:
    """Wrap an SAE for our engine."""
    return wrap_sae(sae, id=id, overrides=Overrides())


def as_token_set(ids: Int[Tensor, "sequences context"]) -> TokenSet:
    """Return the tokens as our engine takes them: all but position 0 count."""
    counted = torch.ones_like(ids, dtype=torch.bool)
    counted[:, 0] = False
    return TokenSet(ids, counted, Packing.DOCUMENTS, len(ids), 0)
