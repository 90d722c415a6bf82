"""What must be looked at before a batch's values are used, without waiting for each of them."""

import torch
from jaxtyping import Bool
from torch import Tensor


class Doubts:
    """Whether anything in a batch needs a closer look.

    To look at a value on a GPU is to wait for it. A batch's doubts are therefore gathered there,
    and looked at once, before anything of the batch is used; where there are any, it is computed
    again, and everything is looked at as it comes. On a CPU it always is.

    Args:
        later: gather them; else whoever has one looks at once.

    Example:
        >>> doubts = Doubts(later=True)
        >>> doubts.put_off(torch.tensor([False, True]))
        True
        >>> doubts.any()
        True
        >>> Doubts(later=False).put_off(torch.tensor([True]))
        False
    """

    def __init__(self, *, later: bool) -> None:
        self._later = later
        self._gathered: list[Tensor] = []

    def put_off(self, doubtful: Bool[Tensor, "*any"]) -> bool:
        """Keep the doubt for later; False where the caller must look now."""
        if self._later:
            self._gathered.append(doubtful.any())
        return self._later

    def any(self) -> bool:
        """True where something that was put off is doubtful: waits for all of it."""
        return bool(self._gathered) and bool(torch.stack(self._gathered).any())


AT_ONCE = Doubts(later=False)
