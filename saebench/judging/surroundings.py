"""Torch's global settings while a run measures: what it sets out with, whatever the caller set."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def torchs_own_settings() -> Iterator[None]:
    """Compute in fp32 on the device that is asked for, with gradients; afterwards as before.

    A notebook's ``torch.set_default_dtype(torch.bfloat16)`` would round noise, logits and sums, a
    default device would take them elsewhere, and an autocast that judge() is called in would
    multiply in half precision.

    Example:
        >>> import torch
        >>> torch.set_default_dtype(torch.float64)
        >>> with torchs_own_settings():
        ...     torch.zeros(1).dtype
        torch.float32
        >>> torch.zeros(1).dtype
        torch.float64
        >>> torch.set_default_dtype(torch.float32)
    """
    import torch

    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    kinds = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    with ExitStack() as stack:
        for kind in kinds:
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if device.type != "cpu":
            stack.callback(torch.set_default_device, device)
            torch.set_default_device(None)
        if dtype != torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        yield
