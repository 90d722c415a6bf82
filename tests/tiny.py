"""A tiny world: a random language model, SAEs on it, and texts that it wrote itself."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

WIDTH, WORDS, LAYERS, CONTEXT = 16, 40, 2, 48
DOCUMENTS, DOCUMENT_TOKENS, TRAINING_CONTEXT = 40, 24, 12
HOOK = "blocks.1.hook_resid_pre"
FEATURES = 3 + WORDS  # one for each token
THRESHOLD = 0.5  # what a feature ignores: above every cosine between two tokens' embeddings
# Times what each block would write: at the hook x is a token's embedding and a little context.
WRITTEN = (0.002, 0.1)
SOFTER = 0.1  # times attention scores: random ones are so large that one token gets all


class TinyWorld:
    """Paths of a model, texts, and SAEs made to measure."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.model = str(root / "models" / "tiny-llama")
        self.texts = str(root / "texts.jsonl")
        self._model = _model()
        self._model.save_pretrained(self.model)
        tokenizer = make_tokenizer()
        tokenizer.save_pretrained(self.model)
        texts = [tokenizer.decode(row[1:]) for row in _written(self._model)]
        write_texts(Path(self.texts), texts)
        self.good = self.sae("good")
        self.bad = self.sae("bad", error=3.0)

    def sae(self, name: str, *, error: float = 0.05, width: int = WIDTH) -> str:
        """Save an SAE with a feature for each token, decoded with an error of this size."""
        path = self.root / "saes" / name
        save_sae(path, error=error, width=width, model=self.model)
        return str(path)

    def early(self, to: Path) -> str:
        """Save an SAE one block before the others."""
        return str(self.copy_of(self.good, to, metadata__hook_name="blocks.0.hook_resid_pre"))

    def copy_of(self, sae: str, to: Path, *, drop: tuple[str, ...] = (), **changes: Any) -> Path:
        """Copy an SAE and change its cfg.json; metadata__KEY changes the metadata."""
        shutil.copytree(sae, to)
        config = json.loads((to / "cfg.json").read_text())
        for key in drop:
            config["metadata"].pop(key)
        for key, value in changes.items():
            table, _, inner = key.partition("__")
            (config[table] if inner else config)[inner or table] = value
        (to / "cfg.json").write_text(json.dumps(config))
        return to

    def with_weights(self, sae: str, to: Path, **tensors: torch.Tensor) -> Path:
        """Copy an SAE and replace some of its weights."""
        shutil.copytree(sae, to)
        file = to / "sae_weights.safetensors"
        save_file(load_file(file) | tensors, file)
        return to

    def options(self) -> list[str]:
        """Return the options that every run needs."""
        return ["--sae-model", self.model, "--sae-dataset", self.texts, "--sae-sequences", "24"]


def save_sae(path: Path, *, error: float, width: int, model: str) -> None:
    """Save a StandardSAE with a feature for each token: x̂ is the token's embedding + an error.

    A feature reads ⟨x, d⟩ - t for its direction d, with t above every cosine between two
    directions, and is scaled so that it is 1 where x is d.
    """
    from sae_lens import StandardSAE, StandardSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    stated = SAEMetadata(
        model_name=model, hook_name=HOOK, context_size=TRAINING_CONTEXT, prepend_bos=True
    )
    sae = StandardSAE(StandardSAEConfig(d_in=width, d_sae=FEATURES, metadata=stated))
    directions = spread_directions(FEATURES, width)
    noise = torch.randn(directions.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        sae.W_enc.copy_(directions.T / (1 - THRESHOLD))
        sae.b_enc.fill_(-THRESHOLD / (1 - THRESHOLD))
        sae.W_dec.copy_(directions + error * noise / width**0.5)
    sae.save_model(path)


def spread_directions(count: int, width: int) -> torch.Tensor:
    """Return unit vectors (count, width) that were pushed apart from a random start."""
    vectors = torch.randn(count, width, generator=torch.Generator().manual_seed(0))
    for _ in range(300):
        vectors = vectors / vectors.norm(dim=1, keepdim=True)
        push = (10 * (vectors @ vectors.T - 1)).exp().fill_diagonal_(0)
        vectors = vectors - 0.3 * push @ vectors
    return vectors / vectors.norm(dim=1, keepdim=True)


def make_tokenizer() -> Any:
    """Return a word-level tokenizer of the words w0, w1, … with BOS."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(WORDS))]
    inner = Tokenizer(models.WordLevel({n: i for i, n in enumerate(names)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def write_texts(path: Path, texts: list[str]) -> str:
    """Write a .jsonl file of texts."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def _model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=3 + WORDS, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=LAYERS,
        num_attention_heads=2, max_position_embeddings=CONTEXT, bos_token_id=1, eos_token_id=2,
        initializer_range=0.5, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(spread_directions(FEATURES, WIDTH))
        for block, share in zip(model.model.layers, WRITTEN, strict=True):
            block.self_attn.q_proj.weight.mul_(SOFTER)
            block.self_attn.o_proj.weight.mul_(share)
            block.mlp.down_proj.weight.mul_(share)
    return model


@torch.inference_mode()
def _written(model: Any) -> torch.Tensor:
    """Sample documents from the model: on them, its own predictions are good."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.full((DOCUMENTS, 1), 1)
    for _ in range(DOCUMENT_TOKENS):
        logits = model(input_ids=ids, use_cache=False).logits[:, -1]
        logits[:, :3] = -torch.inf
        ids = torch.cat([ids, logits.softmax(-1).multinomial(1, generator=generator)], dim=1)
    return ids
