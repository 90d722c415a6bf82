"""A model run as transformers runs it, in float64, with plain torch hooks: what engines must equal.

Nothing of saebench's passes is used.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import torch
from families import HEADS, WIDTH, make_model
from scipy.special import log_softmax
from torch import Tensor

from saebench.data.tokens import TokenSet
from saebench.measures.names import INTERVENTIONS, components_of, is_pca
from saebench.substitution.interventions import BankErrors, Tokens, substitute
from saebench.substitution.reference import ReferenceSums

D_HEAD = WIDTH // HEADS
# Of a random SAE so many features are active that the matched components leave nothing out.
NAMES = (*(name for name in INTERVENTIONS if not is_pca(name)), "pca[5]")
WITH_LAYER_NORM = ("gpt2", "gpt_neox")  # whose norms subtract the mean of the residual stream
NOT_RESIDUAL = ("hook_z", "hook_post")
Change = Callable[[Tensor], Tensor]


class Place(NamedTuple):
    """A hook, and the module whose input or output it means.

    ``part`` is ``input``, ``output``, or ``middle``: the stream behind an attention ``module``,
    which is the block's input plus the attention's output.
    """

    family: str
    hook: str
    head: int | None
    module: str
    part: str

    @property
    def columns(self) -> slice:
        """Which columns of the activation are the SAE's."""
        if self.head is None:
            return slice(None)
        return slice(self.head * D_HEAD, (self.head + 1) * D_HEAD)


class ByHand:
    """An SAE's substitutions at one place, each a full pass of one sequence."""

    def __init__(self, place: Place, sae: Any, tokens: TokenSet, *, seed: int) -> None:
        self.place, self.tokens = place, tokens
        self.model = make_model(place.family).double()
        self.sae = sae.double()
        counted = tokens.counted
        self.x = torch.cat([self._activation(s)[counted[s]] for s in range(len(counted))])
        with torch.no_grad():
            self.features = self.sae.encode(self.x)
            self.x_hat = self.sae.decode(self.features)
        sequence, position = counted.nonzero(as_tuple=True)
        sums = ReferenceSums(self.x.shape[1], tokens=len(self.x))
        sums.update(self.x, sequence, position)
        reference = sums.compute(torch.device("cpu"))
        blind = place.family in WITH_LAYER_NORM and place.hook.split(".")[-1] not in NOT_RESIDUAL
        bank = BankErrors.of(self.x, self.x_hat, unread_mean=blind)
        l0 = (self.features != 0).sum(dim=-1).double()
        self.every = _Wide(self.x, self.x_hat, l0, sequence, position, reference, bank, seed=seed)

    @torch.no_grad()
    def _activation(self, s: int) -> Tensor:
        seen: list[Tensor] = []
        self.run(s, lambda x: seen.append(x) or x)
        return seen[0][0][:, self.place.columns]

    def changed(self, name: str) -> Tensor:
        """Return x' of every counted token; the noise is the engine's, the rest float64."""
        k = components_of(name)
        return self._components(k) if k else substitute(name, self.every)

    def _components(self, k: int) -> Tensor:
        """Return every counted token's k largest components in numpy's eigenbasis."""
        x = self.x.numpy()
        mean, basis = x.mean(0), np.linalg.eigh(np.cov(x.T, bias=True))[1]
        along = (x - mean) @ basis
        rank = np.argsort(np.argsort(-np.abs(along), axis=1, kind="stable"), axis=1)
        kept = np.where(rank < k, along, 0)
        return torch.from_numpy(mean + kept @ basis.T)

    @torch.no_grad()
    def run(self, s: int, change: Change | None = None) -> np.ndarray:
        """Return ln P of all positions of a sequence, the whole activation changed."""
        with ExitStack() as stack:
            if change is not None:
                self._hook(change, stack)
            logits = self.model(input_ids=self.tokens.ids[s][None], use_cache=False).logits[0]
        return log_softmax(logits.numpy(), axis=-1)

    def _hook(self, change: Change, stack: ExitStack) -> None:
        module, start = self.model.get_submodule(self.place.module), []
        if self.place.part == "middle":
            block = self.model.get_submodule(self.place.module.rsplit(".", 1)[0])
            before = block.register_forward_pre_hook(lambda _, args: start.append(args[0]))
            stack.callback(before.remove)

        def write(value: Tensor) -> Tensor:
            return change(start[0] + value) - start[0] if start else change(value)

        stack.callback(hook_module(module, write, output=self.place.part != "input").remove)

    def run_with(self, s: int, rows: dict[int, Tensor]) -> np.ndarray:
        """Return ln P of all positions, the SAE's columns replaced at the given positions."""

        def change(x: Tensor) -> Tensor:
            out = x.clone()
            for t, row in rows.items():
                out[0, t, self.place.columns] = row
            return out

        return self.run(s, change)


class _Wide(Tokens):
    """Tokens in float64 with the engine's fp32 noise."""

    def noise(self, name: str) -> Tensor:
        return super().noise(name).double()


def hook_module(module: Any, change: Change, *, output: bool) -> Any:
    """Change a module's output or its first input; a tuple stays one. Return the handle."""

    def before(_: Any, args: tuple, kwargs: dict) -> Any:
        return (change(args[0]), *args[1:]), kwargs

    def after(_: Any, __: Any, out: Any) -> Any:
        return (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)

    if output:
        return module.register_forward_hook(after)
    return module.register_forward_pre_hook(before, with_kwargs=True)
