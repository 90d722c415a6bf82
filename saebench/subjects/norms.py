"""A model's norm without its weights, whose output is TransformerLens' ``hook_normalized``."""

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saebench.errors import HookError


class UnitNorm:
    """The normalisation before a norm's weights: x̃ with norm(x) = w · x̃ + b.

    LayerNorm's x̃ has mean 0 and variance 1, RMSNorm's mean square 1. It is computed by the model's
    own class, with neutral weights.

    Args:
        norm: the module, which is not changed.
        path: its path, for error messages.
        width: of the activation.

    Attributes:
        weight: w, of the activation's width.
        bias: b; None for none.

    Raises:
        HookError: where the module is no norm of this form.

    Example:
        >>> norm = UnitNorm(nn.LayerNorm(2), "ln_1", width=2)
        >>> norm.normalised(torch.tensor([[1.0, 3.0]])).round(decimals=2).tolist()
        [[-1.0, 1.0]]
    """

    def __init__(self, norm: nn.Module, path: str, *, width: int) -> None:
        own = {name: p.detach() for name, p in norm.named_parameters()}
        biases = [p for name, p in own.items() if "bias" in name]
        weights = [p for name, p in own.items() if "bias" not in name]
        several = len(weights) > 1 or len(biases) > 1
        if several or any(p.shape != (width,) for p in own.values()):
            raise self._no_norm(path)
        self.bias = biases[0] if biases else None
        for neutral in (1.0, 0.0):  # some norms multiply by 1 + weight
            self._unit = _with_weights(norm, neutral)
            self.weight = (
                weights[0] + (1 - neutral) if weights else torch.ones(width, dtype=torch.float32)
            )
            if self._reproduces(norm, *weights, *biases, width=width):
                return
        raise self._no_norm(path)

    @torch.inference_mode()
    def _reproduces(self, norm: nn.Module, *own: Tensor, width: int) -> bool:
        """Test on random numbers that norm(x) = w · x̃ + b and that x̃ has a mean square of 1."""
        generator = torch.Generator().manual_seed(0)
        x = 3 * torch.randn(4, 3, width, generator=generator, dtype=torch.float32)
        x = x.to(own[0]) if own else x
        try:
            unit, expected = self.normalised(x), norm(x).float()
        except (RuntimeError, TypeError, ValueError, AttributeError):
            return False  # another kind of module
        rounding = torch.finfo(x.dtype).eps
        # The median: a row that varies little is shortened by the norm's epsilon.
        off = (unit.float().square().mean(dim=-1) - 1).abs().median()
        is_unit = off < max(1e-3, 4 * rounding)
        bias = 0 if self.bias is None else self.bias.float()
        error = (unit.float() * self.weight.float() + bias - expected).abs().max()
        return bool(is_unit and error <= 8 * rounding * expected.abs().max())

    def normalised(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        """Return x̃ of the norm's input."""
        return self._unit(x)

    def rewritten(
        self,
        output: Float[Tensor, "*rows d"],
        given: Float[Tensor, "*rows d"],
        unit: Float[Tensor, "*rows d"],
    ) -> Float[Tensor, "*rows d"]:
        """Return the norm's output with another x̃; unchanged, exactly, for the norm's own x̃.

        Args:
            output: the norm's output.
            given: the norm's input.
            unit: the new x̃.
        """
        change = unit.float() - self.normalised(given).float()
        return (output.float() + self.weight.float().to(unit.device) * change).to(output.dtype)

    @staticmethod
    def _no_norm(path: str) -> HookError:
        return HookError(f"{path} is not a norm of the form weight · x̃ + bias")


@torch.no_grad()
def _with_weights(norm: nn.Module, value: float) -> nn.Module:
    unit = copy.deepcopy(norm)
    for name, parameter in unit.named_parameters():
        parameter.fill_(0.0 if "bias" in name else value)
    return unit
