"""Final hidden states → logits: the output embedding, then a scale, a soft-cap, or nothing."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

TILE = 1024  # of the vocabulary
LINE = 16  # fp32 numbers of a cache line
PAGE = 1024
# Parts of the names under which configurations store a scale of the logits, or a cap.
_SCALES = ("logit", "lm_head", "scal", "multiplier")
_CAPS = ("cap",)


@dataclass(frozen=True)
class LastStep:
    """The last step: logits = cap · tanh(scale · z / cap), z the unembedded hidden state.

    Attributes:
        scale: the factor of z (Cohere, Granite).
        cap: the soft-cap (Gemma 2); None for none.

    Example:
        >>> import torch
        >>> LastStep(scale=0.5).apply_(torch.tensor([2.0, 4.0])).tolist()
        [1.0, 2.0]
    """

    scale: float = 1.0
    cap: float | None = None

    def apply_(self, z: Float[Tensor, "rows vocab"]) -> Float[Tensor, "rows vocab"]:
        """Turn unembedded hidden states into logits, in place."""
        if self.scale != 1:
            z.mul_(self.scale)
        return z if self.cap is None else z.div_(self.cap).tanh_().mul_(self.cap)

    def back_(
        self, slope: Float[Tensor, "rows vocab"], logits: Float[Tensor, "rows vocab"]
    ) -> Float[Tensor, "rows vocab"]:
        """Turn a gradient in the logits into one in z, in place."""
        if self.cap is not None:
            slope.mul_(1 - (logits / self.cap).square())
        return slope if self.scale == 1 else slope.mul_(self.scale)


def find_last_step(
    z: Float[Tensor, "rows vocab"],
    logits: Float[Tensor, "rows vocab"],
    config: Any,
    *,
    tolerance: float,
) -> LastStep | None:
    """Return the step that maps z to a model's logits; None where no known step does.

    Args:
        z: the hidden states times the output embedding, in fp32.
        logits: the model's own.
        config: the model's; its numbers with the name of a scale or cap are tried.
        tolerance: relative to the largest logit.
    """
    allowed = float(tolerance * logits.abs().max())
    known = [(_error(step, z, logits), step) for step in _known(config)]
    smallest = min(error for error, _ in known)
    if smallest <= allowed:
        # In half precision several may be within the tolerance: the first of the nearest ones is
        # the simplest.
        return next(step for error, step in known if error <= 2 * smallest)
    wide, theirs = z.double(), logits.double()
    fitted = LastStep(float((wide * theirs).sum() / wide.square().sum().clamp_min(1e-300)))
    # The configuration may have the scale under another name, or not at all.
    return fitted if _error(fitted, z, logits) <= allowed else None


def _error(step: LastStep, z: Tensor, logits: Tensor) -> float:
    return float((step.apply_(z.clone()) - logits).abs().max())


def _known(config: Any) -> Iterator[LastStep]:
    numbers = {
        name: float(value)
        for name, value in config.to_dict().items()
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    }
    scales = _named(numbers, _SCALES)
    caps = [None, *_named(numbers, _CAPS)]
    for cap, scale in itertools.product(caps, [1.0, *scales, *(1 / scale for scale in scales)]):
        yield LastStep(scale, cap)


def _named(numbers: dict[str, float], words: tuple[str, ...]) -> list[float]:
    return [value for name, value in numbers.items() if any(word in name for word in words)]


class Unembedding:
    """The map from final hidden states to logits, in fp32 whatever the model's dtype.

    Args:
        output: the model's output embedding.
        columns: the number of logits; the embedding may have more rows.

    Attributes:
        weight: the output embedding's rows.
        bias: its bias; None where it has none.
        last_step: applied to the product with the weight.
    """

    def __init__(self, output: Any, *, columns: int) -> None:
        bias = getattr(output, "bias", None)
        self.weight = output.weight.detach().float()[:columns]
        self.bias = None if bias is None else bias.detach().float()[:columns]
        self.last_step = LastStep()

    def memory(self, rows: int) -> Float[Tensor, "rows vocab"]:
        """Return memory for logits, to give to :meth:`logits` repeatedly.

        Each row begins at a cache line. A matrix product that writes unaligned rows takes up to
        twice the time; GPT-2's 50,257 logits are such rows.
        """
        vocab = len(self.weight)
        stride = -(-vocab // LINE) * LINE
        # Rows at multiples of 4 KB would all compete for the same places in the cache.
        stride += LINE if stride % PAGE == 0 else 0
        return torch.empty(rows, stride, dtype=torch.float32, device=self.weight.device)[:, :vocab]

    def logits(
        self, hidden: Float[Tensor, "rows d"], *, out: Float[Tensor, "rows vocab"] | None = None
    ) -> Float[Tensor, "rows vocab"]:
        """Return the logits of rows of final hidden states.

        Args:
            hidden: the rows.
            out: memory for the logits, from :meth:`memory`; used memory is much faster than new.
        """
        out = self.memory(len(hidden)) if out is None else out
        logits = _product(hidden.float(), self.weight, out=out)
        if self.bias is not None:
            logits += self.bias
        return self.last_step.apply_(logits)

    def backward(
        self, slope: Float[Tensor, "rows vocab"], logits: Float[Tensor, "rows vocab"]
    ) -> Float[Tensor, "rows d"]:
        """Return the gradient in hidden states, given a gradient in the logits.

        Args:
            slope: the gradient in the logits; may be overwritten.
            logits: the result of :meth:`logits` for the hidden states.
        """
        return self.last_step.back_(slope, logits) @ self.weight


def _product(
    hidden: Float[Tensor, "rows d"],
    weight: Float[Tensor, "vocab d"],
    *,
    out: Float[Tensor, "rows vocab"],
) -> Float[Tensor, "rows vocab"]:
    """Write hidden · weightᵀ into ``out``, on a CPU by tiles of the vocabulary.

    A tile of the weights stays in the cache while all rows are multiplied by it.
    """
    if hidden.device.type != "cpu":
        return torch.mm(hidden, weight.T, out=out)
    for start in range(0, len(weight), TILE):
        columns = slice(start, min(start + TILE, len(weight)))
        torch.mm(hidden, weight[columns].T, out=out[:, columns])
    return out
