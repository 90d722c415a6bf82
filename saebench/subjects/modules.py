"""What a module that encodes and decodes tells of itself, and what of it is refused."""

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saebench.errors import SubjectError
from saebench.measures.resources import is_out_of_memory


def refuse_unfolded(sae: Any, source: str) -> None:
    """Refuse a normalisation whose factor is neither in the weights nor at hand.

    Raises:
        SubjectError: naming it and how to fold it.
    """
    kind = getattr(getattr(sae, "cfg", None), "normalize_activations", "none")
    if kind in ("expected_average_only_in", "covariance_whitening"):
        raise SubjectError(
            f"{source}: normalize_activations={kind!r} is not folded into the weights, and no"
            " factor is at hand; say what it is, or that it is folded: --sae-norm-factor"
            " NUMBER|folded|estimate (from Python: norm_factor=…)"
        )


def without_reshaping(sae: Any) -> Any:
    """Return the SAE with hook_z reshaping off: it keeps state, and sites hand over flat heads."""
    if not getattr(sae, "hook_z_reshaping_mode", False):
        return sae
    sae = copy.deepcopy(sae)
    sae.turn_off_forward_pass_hook_z_reshaping()
    return sae


def refuse_non_finite(sae: nn.Module, source: str) -> None:
    """Refuse weights that are NaN or infinite.

    Raises:
        SubjectError: naming the first such tensor.
    """
    for name, tensor in sae.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            bad = int((~torch.isfinite(tensor)).sum())
            raise SubjectError(
                f"{source}: {name} has {bad} values that are NaN or infinite of {tensor.numel()}; "
                "the training diverged or the file is damaged"
            )


@torch.inference_mode()
def decoder_of(sae: Any) -> Tensor | None:
    """Return W_dec where its rows are the features' directions, else None.

    SAELens' are; of other modules it is tried, since some keep the transpose under that name.
    """
    weight = getattr(sae, "W_dec", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        return None
    if config_of(sae):
        return weight.detach()
    features = torch.zeros(2, len(weight), dtype=weight.dtype, device=weight.device)
    features[1, -1] = 1
    try:
        found = sae.decode(features)
    except Exception:
        # It is tried on what may not be features: a user's code raises whatever it raises.
        return None
    if not isinstance(found, Tensor) or found.shape != (2, weight.shape[1]):
        return None
    direction = (found[1] - found[0]).to(weight.dtype)
    return weight.detach() if torch.allclose(direction, weight[-1], atol=1e-4) else None


def decoder_norm(sae: nn.Module, decoder: Tensor | None) -> Tensor | None:
    """Return what turns |f| into |f|·‖d_f‖, or None where there is no decoder matrix."""
    if decoder is None:
        return None
    rescaled = getattr(getattr(sae, "cfg", None), "rescale_acts_by_decoder_norm", False)
    norm = decoder.norm(dim=-1)
    return torch.ones_like(norm) if rescaled else norm


def is_known(sae: Any) -> bool:
    """True where SAELens or saebench itself defines how the SAE encodes and decodes."""
    return type(sae).__module__.partition(".")[0] in ("sae_lens", "saebench")


def config_of(sae: Any) -> dict[str, Any]:
    """Return the configuration of a SAELens SAE; empty for other modules.

    Others keep a ``cfg`` of their own, in their own terms: its names and values are not SAELens'.
    """
    theirs = any(base.__module__.partition(".")[0] == "sae_lens" for base in type(sae).__mro__)
    to_dict = getattr(getattr(sae, "cfg", None), "to_dict", None)
    return to_dict() if theirs and to_dict is not None else {}


@dataclass(frozen=True)
class Calls:
    """An SAE's own functions, called so that neither side can change what the other holds.

    An ``encode`` that works in place would change the activation that its reconstruction is
    compared with; a ``decode`` that hands out one buffer again and again would change the
    reconstructions of the tokens before.

    Attributes:
        sae: the SAE.
        source: where it came from, for messages.
    """

    sae: Any
    source: str

    @property
    def dtype(self) -> torch.dtype:
        """What the SAE computes with: its parameters' dtype, fp32 where it has none."""
        found = (p.dtype for p in self.sae.parameters() if p.is_floating_point())
        return next(found, torch.float32)

    def encode(self, x: Float[Tensor, "tokens d"]) -> Float[Tensor, "tokens features"]:
        """Return the features of a copy of the activations; sparse tensors become dense.

        Raises:
            SubjectError: where encode fails, or gives no such tensor.
        """
        given = x.to(self.dtype, copy=True)
        expected = f"features [{len(x)}, features], zero where one does not fire"
        found = self._checked("encode", self._called("encode", given), x, expected)
        # Some TopK classes return sparse tensors.
        return found if found.layout == torch.strided else found.to_dense()

    def decode(
        self, features: Float[Tensor, "tokens features"], *, like: Float[Tensor, "tokens d"]
    ) -> Float[Tensor, "tokens d"]:
        """Return a reconstruction that is nobody else's memory, in the dtype of ``like``.

        ``features`` may be overwritten.

        Raises:
            SubjectError: where decode fails, or gives no such tensor.
        """
        expected = f"reconstructions [{len(like)}, width]"
        found = self._checked("decode", self._called("decode", features), like, expected)
        dense = found if found.layout == torch.strided else found.to_dense()
        return dense.to(like.dtype, copy=True)

    def forward(self, x: Float[Tensor, "tokens d"], *, width: int) -> Tensor | None:
        """Return the reconstruction that forward gives of a copy of the activations.

        None where it gives none: it is not there, wants more than activations, or gives something
        that does not begin with a tensor of the reconstruction's shape.

        Args:
            x: the activations.
            width: of a reconstruction.
        """
        # A SAELens SAE with its error term gives x itself; nobody substitutes that.
        if getattr(self.sae, "use_error_term", False) or not _has_forward(self.sae):
            return None
        try:
            found = _first(self.sae(x.to(self.dtype, copy=True)))
        except Exception as error:
            # It is not asked for: whatever it raises, there is nothing to compare with.
            if is_out_of_memory(error):
                raise
            return None
        fits = isinstance(found, Tensor) and found.shape == (len(x), width)
        return found.to(x.dtype, copy=True) if fits and found.device == x.device else None

    def _called(self, name: str, given: Tensor) -> Any:
        shape = list(given.shape)
        try:
            return getattr(self.sae, name)(given)
        except Exception as error:
            # The code is the user's, or a library's: it raises whatever it raises.
            if is_out_of_memory(error):
                raise
            raise SubjectError(
                f"{self.source}: {name} fails on a tensor {shape}: {error!r}"
            ) from error

    def _checked(self, name: str, found: Any, like: Tensor, expected: str) -> Tensor:
        is_tensor = isinstance(found, Tensor)
        fits = is_tensor and found.is_floating_point() and found.ndim == 2
        if fits and len(found) == len(like) and found.device == like.device:
            return found
        raise SubjectError(
            f"{self.source}: {name} gives {_described(found)} for {len(like)} activations; expected"
            f" one floating-point tensor of {expected}, on {like.device}; wrap the SAE in a module "
            f"whose {name} gives that alone"
        )


def _has_forward(sae: Any) -> bool:
    return isinstance(sae, nn.Module) and type(sae).forward is not nn.Module.forward


def _first(found: Any) -> Any:
    """Return what a result begins with: tuples, named tuples and dictionaries of outputs."""
    if isinstance(found, Mapping):
        return next(iter(found.values()), None)
    return found[0] if isinstance(found, Sequence) and found else found


def _described(found: Any) -> str:
    """Return what a value is, in a few words: of a tensor its shape, dtype and device.

    Example:
        >>> _described((torch.zeros(2, 3), None))
        'a tuple of (float32 tensor [2, 3] on cpu, None)'
    """
    if isinstance(found, Tensor):
        dtype = str(found.dtype).removeprefix("torch.")
        return f"{dtype} tensor {list(found.shape)} on {found.device}"
    if isinstance(found, tuple | list):
        inner = ", ".join(_described(each) for each in found[:4])
        return f"a {type(found).__name__} of ({inner}{', …' if len(found) > 4 else ''})"
    return "None" if found is None else f"a value of type {type(found).__name__}"


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, dtypes, shapes and bytes, in the names' order.

    Example:
        >>> tensors_sha256({"a": torch.zeros(2)})[:8]
        '98664975'
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous().cpu()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
