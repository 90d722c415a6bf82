"""The two models that adversaries are built for, with their texts, activations and honest SAEs."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from sae_lens import SAE
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from redteam.modules import Coder, coder_of
from saebench.experiments.prepare import demo_documents
from saebench.zoo import shelf

FITTED_TEXTS = 160
LAYER = 2
BAD_ON_PURPOSE = ("l2-shrunken", "l2-dense")
JUDGED_CASES = ("advantage", "fidelity", "kl_gap", "shrinkage", "sparsity", "strata", "promise")


@dataclass(frozen=True)
class Activations:
    """Activations of many tokens, and which tokens they are of.

    Attributes:
        x: activations before a block.
        ids: token ids.
        sequence: the number of each token's text.
        position: its position in it; position 0 is left out.
    """

    x: Float[Tensor, "tokens d"]
    ids: Int[Tensor, "tokens"]
    sequence: Int[Tensor, "tokens"]
    position: Int[Tensor, "tokens"]

    @property
    def mean(self) -> Tensor:
        return self.x.mean(dim=0)

    @cached_property
    def principal(self) -> Float[Tensor, "d d"]:
        """The eigenvectors of the covariance as rows, the largest first."""
        centred = (self.x - self.mean).double()
        return torch.linalg.eigh(centred.T @ centred)[1].flip(1).T.float()


@dataclass(frozen=True)
class World:
    """A model, its SAEs on disk, and texts.

    Attributes:
        name: ``demo`` or ``stories``.
        model_path: the model and its tokenizer.
        saes: directories of the SAEs, by name.
        honest: names of those that should pass.
        base: the honest SAE before block 2 that adversaries begin with.
        fitted: texts that adversaries are fitted on.
        candidates: texts of which the first that are long enough are judged.
        sequences: how many are judged.
        context: the base's training context.
    """

    name: str
    model_path: str
    saes: dict[str, Path]
    honest: tuple[str, ...]
    base: str
    fitted: list[str]
    candidates: list[str]
    sequences: int
    context: int
    _kept: dict[Any, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def model(self) -> Any:
        model: Any = AutoModelForCausalLM.from_pretrained(self.model_path)
        return model.eval().requires_grad_(False)

    @cached_property
    def tokenizer(self) -> Any:
        return AutoTokenizer.from_pretrained(self.model_path)

    @cached_property
    def texts(self) -> list[str]:
        """The judged texts, each at least as long as the context."""
        long = (t for t in self.candidates if len(self._tokens(t)) >= self.context)
        return list(islice(long, self.sequences))

    @property
    def hook(self) -> str:
        return f"blocks.{LAYER}.hook_resid_pre"

    def sae(self, name: str) -> Any:
        """Return a SAELens SAE as it is on disk."""
        return self._once(name, lambda: SAE.load_from_disk(str(self.saes[name])))

    def coder(self, name: str | None = None) -> Coder:
        """Return a SAE's encoder and decoder; the base's by default."""
        name = name or self.base
        return self._once(("coder", name), lambda: coder_of(self.sae(name)))

    def fit(self, layer: int = LAYER) -> Activations:
        """Return activations of the texts that adversaries are fitted on."""
        return self._once(("fit", layer), lambda: self.activations(self.fitted, layer))

    def judged(self, layer: int = LAYER) -> Activations:
        """Return activations of the judged texts: only an adversary knows them."""
        return self._once(("judged", layer), lambda: self.activations(self.texts, layer))

    def activations(self, texts: list[str], layer: int, *, model: Any = None) -> Activations:
        """Return the activations of texts before a block, by one forward pass of each batch."""
        ids = self.ids(texts)
        with torch.no_grad():
            run = model or self.model
            states = [run(rows, output_hidden_states=True).hidden_states for rows in ids.split(16)]
        x = torch.cat([state[layer][:, 1:] for state in states]).flatten(0, 1)
        rows, columns = torch.meshgrid(
            torch.arange(len(ids)), torch.arange(1, self.context), indexing="ij"
        )
        return Activations(x, ids[:, 1:].flatten(), rows.flatten(), columns.flatten())

    def ids(self, texts: list[str]) -> Int[Tensor, "texts context"]:
        """Return the first tokens of those texts that are long enough, BOS first."""
        tokens = [self._tokens(text)[: self.context] for text in texts]
        return torch.tensor([each for each in tokens if len(each) == self.context])

    def token(self, word: str) -> int:
        """Return a word's last token."""
        return self.tokenizer.encode(word, add_special_tokens=False)[-1]

    @cached_property
    def by_frequency(self) -> list[int]:
        """The token ids of the fitted texts, the most frequent first."""
        return [id for id, _ in Counter(self.fit().ids.tolist()).most_common()]

    @property
    def blocks(self) -> nn.ModuleList:
        inner = getattr(self.model, "transformer", None) or self.model.model
        return inner.h if hasattr(inner, "h") else inner.layers

    @contextmanager
    def before_block(self, change: Any) -> Iterator[None]:
        """Change the activations before block 2, at every position but the first."""

        def hook(_: nn.Module, given: tuple[Tensor, ...], named: dict[str, Any]) -> Any:
            x, *rest = given or (named.pop("hidden_states"),)
            changed = torch.cat([x[:, :1], change(x[:, 1:])], dim=1)
            return (changed, *rest), named

        handle = self.blocks[LAYER].register_forward_pre_hook(hook, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def _tokens(self, text: str) -> list[int]:
        bos = self.tokenizer.bos_token_id
        return [bos, *self.tokenizer.encode(text, add_special_tokens=False)]

    def _once(self, key: Any, make: Any) -> Any:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]


def demo_world(*, sequences: int = 64) -> World:
    """Return the embedded demo model; all of its SAEs are honest but for two bad on purpose."""
    return World(
        name="demo",
        model_path=str(shelf.model_path()),
        saes={name: shelf.sae_path(name) for name in shelf.names()},
        honest=tuple(name for name in shelf.names() if name not in BAD_ON_PURPOSE),
        base="l2-topk",
        fitted=_demo("sae", FITTED_TEXTS),
        candidates=_demo("heldout", 4 * sequences),
        sequences=sequences,
        context=64,
    )


def stories_world(data: Path, *, sequences: int = 64) -> World:
    """Return stories260K; every one of its SAEs is honest but for the shrunken one."""
    folders = sorted(data.glob("saes/stories260K-*"))
    saes = {folder.name.removeprefix("stories260K-"): folder for folder in folders}
    return World(
        name="stories",
        model_path=str(data / "models" / "stories260K"),
        saes=saes,
        honest=tuple(name for name in saes if name not in BAD_ON_PURPOSE),
        base="l2-topk16",
        fitted=_jsonl(data / "text" / "tinystories-train.jsonl", FITTED_TEXTS),
        candidates=_jsonl(data / "text" / "tinystories-heldout.jsonl", None),
        sequences=sequences,
        context=128,
    )


def _demo(split: str, count: int) -> list[str]:
    return [str(text) for text in islice(demo_documents(split).read(), count)]


def _jsonl(path: Path, count: int | None) -> list[str]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in islice(lines, count)]
