"""SAE modules: guarded calls, configuration, decoder, and checks of their weights."""

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
    """Refuse a normalisation whose factor is neither folded into the weights nor known.

    Raises:
        SubjectError: naming the normalisation and how to fold it.
    """
    kind = getattr(getattr(sae, "cfg", None), "normalize_activations", "none")
    if kind in ("expected_average_only_in", "covariance_whitening"):
        raise SubjectError(
            f"{source}: normalize_activations={kind!r} is not folded into the weights, and its"
            " factor is unknown; give it, or say that it is folded: --sae-norm-factor"
            " NUMBER|folded|estimate (from Python: norm_factor=…)"
        )


def without_reshaping(sae: Any) -> Any:
    """Return the SAE without hook_z reshaping, which keeps state; sites give flattened heads."""
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

    SAELens' rows are; other modules are tested, since some name the transpose so.
    """
    weight = getattr(sae, "W_dec", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        return None
    if config_of(sae):
        return weight.detach()
    features = torch.zeros(2, len(weight), dtype=weight.dtype, device=weight.device)
    features[1, -1] = 1
    try:
        decoded = sae.decode(features)
    except Exception:
        # The test input may not be valid features, and a user's code may raise anything.
        return None
    if not isinstance(decoded, Tensor) or decoded.shape != (2, weight.shape[1]):
        return None
    direction = (decoded[1] - decoded[0]).to(weight.dtype)
    return weight.detach() if torch.allclose(direction, weight[-1], atol=1e-4) else None


def decoder_norm(sae: nn.Module, decoder: Tensor | None) -> Tensor | None:
    """Return the factors that map |f| to |f|·‖d_f‖; None without a decoder matrix."""
    if decoder is None:
        return None
    rescaled = getattr(getattr(sae, "cfg", None), "rescale_acts_by_decoder_norm", False)
    norm = decoder.norm(dim=-1)
    return torch.ones_like(norm) if rescaled else norm


def is_known(sae: Any) -> bool:
    """True where SAELens or saebench defines the SAE's class."""
    return type(sae).__module__.partition(".")[0] in ("sae_lens", "saebench")


def config_of(sae: Any) -> dict[str, Any]:
    """Return the configuration of a SAELens SAE; empty for other modules.

    Other modules may have a ``cfg`` too, whose names and values are not SAELens'.
    """
    is_saelens = any(base.__module__.partition(".")[0] == "sae_lens" for base in type(sae).__mro__)
    to_dict = getattr(getattr(sae, "cfg", None), "to_dict", None)
    return to_dict() if is_saelens and to_dict is not None else {}


@dataclass(frozen=True)
class Calls:
    """Guarded calls of an SAE's functions: inputs and outputs are copied, and results checked.

    An ``encode`` that works in place would change the activation that its reconstruction is
    compared with; a ``decode`` that returns the same buffer each time would overwrite earlier
    reconstructions.

    Attributes:
        sae: the SAE.
        source: where it came from, for messages.
    """

    sae: Any
    source: str

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the SAE's parameters; fp32 where it has none."""
        dtypes = (p.dtype for p in self.sae.parameters() if p.is_floating_point())
        return next(dtypes, torch.float32)

    def encode(self, x: Float[Tensor, "tokens d"]) -> Float[Tensor, "tokens features"]:
        """Return the features of a copy of the activations; sparse tensors become dense.

        Raises:
            SubjectError: where encode fails, or returns no such tensor.
        """
        given = x.to(self.dtype, copy=True)
        expected = f"features [{len(x)}, features], zero where one does not fire"
        features = self._checked("encode", self._called("encode", given), x, expected)
        # Some TopK classes return sparse tensors.
        return features if features.layout == torch.strided else features.to_dense()

    def decode(
        self, features: Float[Tensor, "tokens features"], *, like: Float[Tensor, "tokens d"]
    ) -> Float[Tensor, "tokens d"]:
        """Return a reconstruction in its own memory, in the dtype of ``like``.

        ``features`` may be overwritten.

        Raises:
            SubjectError: where decode fails, or returns no such tensor.
        """
        expected = f"reconstructions [{len(like)}, width]"
        x_hat = self._checked("decode", self._called("decode", features), like, expected)
        dense = x_hat if x_hat.layout == torch.strided else x_hat.to_dense()
        return dense.to(like.dtype, copy=True)

    def forward(self, x: Float[Tensor, "tokens d"], *, width: int) -> Tensor | None:
        """Return forward's reconstruction of a copy of the activations.

        None where there is no forward, where it needs more than activations, and where its result
        does not begin with a tensor of the reconstruction's shape.

        Args:
            x: the activations.
            width: of a reconstruction.
        """
        # With its error term, a SAELens SAE returns x itself, which nobody substitutes.
        if getattr(self.sae, "use_error_term", False) or not _has_forward(self.sae):
            return None
        try:
            x_hat = _first(self.sae(x.to(self.dtype, copy=True)))
        except Exception as error:
            # forward is optional: without a result there is nothing to compare.
            if is_out_of_memory(error):
                raise
            return None
        fits = isinstance(x_hat, Tensor) and x_hat.shape == (len(x), width)
        return x_hat.to(x.dtype, copy=True) if fits and x_hat.device == x.device else None

    def _called(self, name: str, given: Tensor) -> Any:
        shape = list(given.shape)
        try:
            return getattr(self.sae, name)(given)
        except Exception as error:
            # The user's or a library's code may raise anything.
            if is_out_of_memory(error):
                raise
            raise SubjectError(
                f"{self.source}: {name} fails on a tensor {shape}: {error!r}"
            ) from error

    def _checked(self, name: str, value: Any, like: Tensor, expected: str) -> Tensor:
        is_tensor = isinstance(value, Tensor)
        fits = is_tensor and value.is_floating_point() and value.ndim == 2
        if fits and len(value) == len(like) and value.device == like.device:
            return value
        raise SubjectError(
            f"{self.source}: {name} gives {_described(value)} for {len(like)} activations; expected"
            f" one floating-point tensor of {expected}, on {like.device}; wrap the SAE in a module "
            f"whose {name} returns that alone"
        )


def _has_forward(sae: Any) -> bool:
    return isinstance(sae, nn.Module) and type(sae).forward is not nn.Module.forward


def _first(result: Any) -> Any:
    """Return the first element of a tuple, named tuple or dictionary of outputs."""
    if isinstance(result, Mapping):
        return next(iter(result.values()), None)
    return result[0] if isinstance(result, Sequence) and result else result


def _described(value: Any) -> str:
    """Describe a value for error messages: a tensor by its dtype, shape and device.

    Example:
        >>> _described((torch.zeros(2, 3), None))
        'a tuple of (float32 tensor [2, 3] on cpu, None)'
    """
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"{dtype} tensor {list(value.shape)} on {value.device}"
    if isinstance(value, tuple | list):
        inner = ", ".join(_described(each) for each in value[:4])
        return f"a {type(value).__name__} of ({inner}{', …' if len(value) > 4 else ''})"
    return "None" if value is None else f"a value of type {type(value).__name__}"


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
