"""Whole passes of a GPT-2 as plain scripts run them: clean, or with one block's input replaced."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from jaxtyping import Float, Int
from torch import Tensor

from perf.settings import resid_pre


class FullPasses(Protocol):
    """A model and the block at whose input an SAE is."""

    def activations(self, ids: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d"]:
        """Return the block's input."""
        ...

    def clean(self, ids: Int[Tensor, "batch pos"]) -> tuple[Tensor, Tensor]:
        """Return the logits and the block's input."""
        ...

    def changed(
        self, ids: Int[Tensor, "batch pos"], value: Float[Tensor, "batch pos d"]
    ) -> Float[Tensor, "batch pos vocab"]:
        """Return the logits with the block's input replaced."""
        ...


@dataclass(frozen=True)
class HuggingFacePasses:
    """The plain Hugging Face model with a torch hook."""

    model: Any
    layer: int

    def activations(self, ids: Tensor) -> Tensor:
        """Return the block's input."""
        return self.model.transformer(ids, output_hidden_states=True).hidden_states[self.layer]

    def clean(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits and the block's input."""
        output = self.model(ids, output_hidden_states=True)
        return output.logits, output.hidden_states[self.layer]

    def changed(self, ids: Tensor, value: Tensor) -> Tensor:
        """Return the logits with the block's input replaced."""
        with _input_replaced(self.model.transformer.h[self.layer], value):
            return self.model(ids).logits


@dataclass(frozen=True)
class HookedPasses:
    """TransformerLens' HookedTransformer with its own hooks, as Gurnee 2024 ran it."""

    model: Any
    layer: int

    @property
    def _hook(self) -> str:
        return resid_pre(self.layer)

    def activations(self, ids: Tensor) -> Tensor:
        """Return the block's input."""
        stop = self.layer + 1
        _, cache = self.model.run_with_cache(ids, names_filter=self._hook, stop_at_layer=stop)
        return cache[self._hook]

    def clean(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits and the block's input."""
        logits, cache = self.model.run_with_cache(ids, names_filter=self._hook)
        return logits, cache[self._hook]

    def changed(self, ids: Tensor, value: Tensor) -> Tensor:
        """Return the logits with the block's input replaced."""
        return self.model.run_with_hooks(ids, fwd_hooks=[(self._hook, lambda *_, **__: value)])


@contextmanager
def _input_replaced(block: Any, value: Tensor) -> Iterator[None]:
    hook = block.register_forward_pre_hook(lambda _, args: (value, *args[1:]))
    try:
        yield
    finally:
        hook.remove()
