"""What a model does to its logits after the unembedding: a scale, a soft-cap, or nothing."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

# Words in the names under which configurations keep a scale of the logits, or a cap.
_SCALES = ("logit", "lm_head", "scal", "multiplier")
_CAPS = ("cap",)


@dataclass(frozen=True)
class LastStep:
    """A known last step: logits = cap · tanh(scale · z / cap), z the unembedded hidden state.

    Attributes:
        scale: what z is multiplied by (Cohere, Granite).
        cap: the soft-cap (Gemma 2); None where there is none.

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
    """Return the step that leads from z to a model's logits; None where none of the known does.

    Args:
        z: the hidden states times the output embedding, in fp32.
        logits: the model's own.
        config: the model's; numbers in it that are named as scales or caps are tried.
        tolerance: relative to the largest logit.
    """
    allowed = float(tolerance * logits.abs().max())
    known = [(_error(step, z, logits), step) for step in _known(config)]
    smallest = min(error for error, _ in known)
    if smallest <= allowed:
        # In half precision several may be within the tolerance; of those as near as the nearest
        # the first, which is the simplest.
        return next(step for error, step in known if error <= 2 * smallest)
    wide, theirs = z.double(), logits.double()
    fitted = LastStep(float((wide * theirs).sum() / wide.square().sum().clamp_min(1e-300)))
    # A scale that the configuration names otherwise, or not at all.
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
