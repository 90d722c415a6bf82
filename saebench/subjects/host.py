"""The language model that an SAE is put into: the plain Hugging Face model and its parts."""

import contextlib
import functools
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor, nn

from saebench.errors import HookError, HostError
from saebench.results import ModelRecord
from saebench.subjects.hashing import tensors_sha256

TILE = 1024  # of the vocabulary
LINE = 16  # fp32 numbers of a cache line
PAGE = 1024
TF32_EPS = 2.0**-10  # its ten bits are fp16's


class Host:
    """A causal language model, its tokenizer, and the parts that substitution works on.

    Args:
        model: a transformers causal language model; put into evaluation mode.
        tokenizer: its tokenizer.
        name: what the result file calls it.
        tf32: multiply matrices in TF32 while the model runs, on a GPU that can; logits are still
            in fp32.

    Attributes:
        original: the model that this one is a patched copy of; None for a model as it came.
        notes: what was said of it when it was loaded.

    Raises:
        HostError: where the model has no list of blocks, or its logits are not what its final
            hidden state and output embedding give.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str, tf32: bool = False) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.name = name
        self.tf32 = tf32
        self.config = model.config.get_text_config()
        self.original: Host | None = None
        self.notes: tuple[str, ...] = ()
        self._check_logits()

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return next(self.model.parameters()).device

    @property
    def is_fp32(self) -> bool:
        """True where the model is run in fp32 throughout."""
        return self.model.dtype == torch.float32 and not self.tf32

    @property
    def rounding(self) -> float:
        """The relative rounding of what the model computes with."""
        return TF32_EPS if self.tf32 else torch.finfo(self.model.dtype).eps

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.config.hidden_size

    @property
    def n_heads(self) -> int:
        """Number of query heads; key and value heads may be fewer."""
        return self.config.num_attention_heads

    @property
    def context(self) -> int | None:
        """The longest sequence the model takes, None where it has no limit."""
        return getattr(self.config, "max_position_embeddings", None)

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of BOS, EOS and PAD; one that is None is ignored."""
        kinds = ("bos_token_id", "eos_token_id", "pad_token_id")
        found = {getattr(self.tokenizer, kind, None) for kind in kinds}
        return frozenset(i for i in found if i is not None)

    @cached_property
    def adapter(self) -> Any:
        """TransformerLens' architecture adapter: it knows this architecture's module names."""
        return _adapter(self.model.config, self.name)

    @cached_property
    def block_paths(self) -> tuple[str, ...]:
        """Module paths of the transformer blocks, in order."""
        path = self.module_path("blocks")
        return tuple(f"{path}.{i}" for i in range(len(self.model.get_submodule(path))))

    @cached_property
    def blocks(self) -> tuple[nn.Module, ...]:
        """The transformer blocks, in order."""
        return tuple(self.model.get_submodule(path) for path in self.block_paths)

    @property
    def is_sequential(self) -> bool:
        """True where the MLP reads the residual stream after attention was added, unscaled."""
        return "hook_resid_mid" in self.adapter.component_mapping["blocks"].hook_aliases

    @cached_property
    def has_layer_norm(self) -> bool:
        """True where every norm subtracts the mean, so that the residual's mean is unread."""
        norms = [m for m in self.model.modules() if "norm" in type(m).__name__.lower()]
        return bool(norms) and all(isinstance(m, nn.LayerNorm) for m in norms)

    def module_path(self, lens_path: str) -> str:
        """Return the module path of a TransformerLens component such as ``blocks.1.attn.o``.

        Raises:
            HookError: where this architecture has no such component.
        """
        try:
            return self.adapter.translate_transformer_lens_path(lens_path)
        except ValueError as error:
            raise HookError(f"{lens_path} is not in {self.name}: {error}") from error

    def output_path(self, layer: int, part: str, *, post_norm: str) -> str:
        """Return the module whose output a block's part adds to the residual stream.

        Some architectures (gemma2) normalise the part's output before they add it.
        """
        submodules = self.adapter.component_mapping["blocks"].submodules
        return self.module_path(f"blocks.{layer}.{post_norm if post_norm in submodules else part}")

    def final_hidden(self, input_ids: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d"]:
        """Run the model up to and including its final norm, with a gradient where one is kept."""
        return self.run(input_ids=input_ids, use_cache=False)[0]

    def run(self, **given: Any) -> Any:
        """Run the model without its unembedding; every pass is one of these."""
        with self.gelus_in_one(), self._products():
            return self.model.base_model(**given)

    @contextlib.contextmanager
    def _products(self) -> Iterator[None]:
        """Multiply matrices as the host was told to, and afterwards as before."""
        if not self.tf32:
            yield
            return
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)

    @contextlib.contextmanager
    def gelus_in_one(self) -> Iterator[None]:
        """Apply GPT-2's GELU by torch's own operation; within itself it changes nothing more.

        transformers spells it out in eight, each of which goes through memory. Torch's gives the
        same within an fp32 rounding, in a sixth of the time.
        """
        gelus = [m for m in self._spelt_out_gelus if "forward" not in vars(m)]
        for module in gelus:
            module.forward = functools.partial(F.gelu, approximate="tanh")
        try:
            yield
        finally:
            for module in gelus:
                del module.forward

    @cached_property
    def _spelt_out_gelus(self) -> tuple[nn.Module, ...]:
        found = [m for m in self.model.modules() if type(m).__name__ == "NewGELUActivation"]
        return tuple(m for m in found if "forward" not in vars(m))

    def logits_memory(self, rows: int) -> Float[Tensor, "rows vocab"]:
        """Return memory for logits, to give to :meth:`logits` as often as wanted.

        Each row begins at a cache line. A matrix product that writes rows which do not takes up
        to twice the time; GPT-2's 50,257 logits are such rows.
        """
        vocab = len(self._unembedding[0])
        stride = -(-vocab // LINE) * LINE
        # Rows at multiples of 4 KB would all compete for the same places in the cache.
        stride += LINE if stride % PAGE == 0 else 0
        return torch.empty(rows, stride, dtype=torch.float32, device=self.device)[:, :vocab]

    def logits(
        self,
        hidden: Float[Tensor, "rows d"],
        *,
        out: Float[Tensor, "rows vocab"] | None = None,
    ) -> Float[Tensor, "rows vocab"]:
        """Unembed rows of final hidden states in fp32, whatever the model's dtype.

        Args:
            hidden: the rows.
            out: where to put the logits, from :meth:`logits_memory`; memory that was used before
                is much faster than new.
        """
        weight, bias = self._unembedding
        out = self.logits_memory(len(hidden)) if out is None else out
        logits = _product(hidden.float(), weight, out=out)
        if bias is not None:
            logits += bias
        cap = getattr(self.config, "final_logit_softcapping", None)
        return logits if cap is None else logits.div_(cap).tanh_().mul_(cap)

    def back_through_logits(
        self, slope: Float[Tensor, "rows vocab"], logits: Float[Tensor, "rows vocab"]
    ) -> Float[Tensor, "rows d"]:
        """Return the gradient in hidden states of something whose gradient in logits is known.

        Args:
            slope: the gradient in the logits; may be overwritten.
            logits: what :meth:`logits` gave for the hidden states.
        """
        cap = getattr(self.config, "final_logit_softcapping", None)
        if cap is not None:
            slope = slope.mul_(1 - (logits / cap).square())
        return slope @ self._unembedding[0]

    @cached_property
    def _unembedding(self) -> tuple[Tensor, Tensor | None]:
        output = self.model.get_output_embeddings()
        bias = getattr(output, "bias", None)
        return output.weight.detach().float(), None if bias is None else bias.detach().float()

    def has_module(self, path: str) -> bool:
        """True for a module's path, whether from the model or from its base model on."""
        return self.full_path(path) in dict(self.model.named_modules())

    def full_path(self, path: str) -> str:
        """Return a module's path from the model on; tools that use AutoModel leave its prefix out.

        What is no module's path is returned as it is.
        """
        modules = dict(self.model.named_modules())
        below = f"{self.model.base_model_prefix}.{path}"
        return below if path not in modules and below in modules else path

    @torch.inference_mode()
    def activation_width(self, path: str, *, of_input: bool = False) -> int:
        """Return the width of a module's output or input, found by running a few tokens.

        Raises:
            HookError: where the module has no activation for each token there.
        """
        found: list[Any] = []

        def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            given = args[0] if args else kwargs.get("hidden_states")
            found.append(given if of_input else output)

        ids = torch.zeros(1, min(4, self.context or 4), dtype=torch.int64, device=self.device)
        with self.model.get_submodule(path).register_forward_hook(keep, with_kwargs=True):
            self.final_hidden(ids)
        value = found[0][0] if found and isinstance(found[0], tuple) else (found or [None])[0]
        if not isinstance(value, Tensor) or value.shape[:2] != ids.shape or value.ndim != 3:
            side = "input" if of_input else "output"
            raise HookError(f"{path} of {self.name} has no {side} for each token")
        return value.shape[-1]

    def record(self) -> ModelRecord:
        """Return what the result file says of the model."""
        return ModelRecord(
            name=self.name,
            revision=getattr(self.model.config, "_commit_hash", None),
            weights_sha256=self._weights_sha256,
            dtype="tf32" if self.tf32 else str(self.model.dtype).removeprefix("torch."),
            device=str(self.device),
        )

    @cached_property
    def _weights_sha256(self) -> str:
        return tensors_sha256(dict(self.model.named_parameters()))

    @torch.inference_mode()
    def _check_logits(self) -> None:
        """Hold our unembedding against the model's own: some architectures scale their logits."""
        width = min(8, self.context or 8)
        ids = torch.arange(width, device=self.device)[None] % self.config.vocab_size
        ours = self.logits(self.final_hidden(ids)[0])
        theirs = self.model(input_ids=ids, use_cache=False).logits[0].float()
        if not torch.isfinite(theirs).all():
            raise HostError(
                f"{self.name}: its logits are NaN or infinite; are the weights damaged?"
            )
        tolerance = (1e-4 if self.is_fp32 else 5e-2) * theirs.abs().max().clamp_min(1)
        if ours.shape != theirs.shape or (ours - theirs).abs().max() > tolerance:
            raise HostError(
                f"{self.name} ({type(self.model).__name__}): its logits are not its output "
                "embedding applied to its final hidden state, so substitutions cannot be read out"
            )


def _product(
    hidden: Float[Tensor, "rows d"],
    weight: Float[Tensor, "vocab d"],
    *,
    out: Float[Tensor, "rows vocab"],
) -> Float[Tensor, "rows vocab"]:
    """Put hidden · weightᵀ into ``out``, on a CPU by tiles of the vocabulary.

    A tile of the weights stays in the cache while all rows are multiplied with it.
    """
    if hidden.device.type != "cpu":
        return torch.mm(hidden, weight.T, out=out)
    for start in range(0, len(weight), TILE):
        columns = slice(start, min(start + TILE, len(weight)))
        torch.mm(hidden, weight[columns].T, out=out[:, columns])
    return out


def _adapter(config: Any, name: str) -> Any:
    """Build the architecture's adapter without building a Bridge."""
    from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_config_from_hf
    from transformer_lens.model_bridge.sources.transformers import (
        determine_architecture_from_hf_config,
    )

    try:
        architecture = determine_architecture_from_hf_config(config)
        bridge = build_bridge_config_from_hf(config, architecture, name, torch.float32)
        return ArchitectureAdapterFactory.select_architecture_adapter(bridge)
    except ValueError as error:
        raise HostError(
            f"{name}: TransformerLens knows no adapter for {type(config).__name__}: {error}"
        ) from error
