"""The host of an SAE: the plain Hugging Face language model, its blocks and its logits."""

import contextlib
import functools
import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor, nn

from saebench.errors import HostError, SaebenchError
from saebench.measures.resources import is_out_of_memory
from saebench.records.inputs import ModelRecord
from saebench.subjects.calls import Call, argument, by_token, calls_once, record, with_argument
from saebench.subjects.modules import tensors_sha256
from saebench.subjects.norms import UnitNorm
from saebench.subjects.parts import Parts, find_parts, is_close
from saebench.subjects.stack import Stack, find_stack
from saebench.subjects.unembedding import Unembedding, find_last_step

TRIAL_TOKENS = 12
TF32_EPS = 2.0**-10  # its ten bits are fp16's


class Host:
    """A causal language model, its tokenizer, and the modules that substitution hooks.

    Args:
        model: a transformers causal language model; put into evaluation mode.
        tokenizer: its tokenizer.
        name: what the result file calls it.
        tf32: multiply matrices in TF32 while the model runs, on a GPU that supports it; logits
            stay in fp32.

    Attributes:
        original: the model that this one is a patched copy of; None for an unpatched model.
        sites: cache of resolved hooks.
        notes: notes from loading it.

    Raises:
        HostError: where the model's logits are not its output embedding applied to its final
            hidden state, or the model is not causal.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str, tf32: bool = False) -> None:
        self.model: Any = model.eval()
        self.tokenizer = tokenizer
        self.name = name
        self.tf32 = tf32
        self.config = model.config.get_text_config()
        self.original: Host | None = None
        self.notes: tuple[str, ...] = ()
        self.sites: dict[Any, Any] = {}
        self._calls: dict[int, dict[str, Call]] = {}
        self._parts: dict[int, Parts] = {}
        self._unit_norms: dict[str, UnitNorm] = {}
        self._reads_early = False
        self._check_end()
        self._check_causal()

    @property
    def device(self) -> torch.device:
        """The device of the model's weights."""
        return next(self.model.parameters()).device

    @property
    def is_fp32(self) -> bool:
        """True where the model is run in fp32 throughout."""
        return self.model.dtype == torch.float32 and not self.tf32

    @property
    def rounding(self) -> float:
        """The relative rounding error of the model's arithmetic."""
        return TF32_EPS if self.tf32 else torch.finfo(self.model.dtype).eps

    @property
    def d_model(self) -> int:
        """Width of the final hidden states; for most models that of the residual stream too."""
        return self._unembedding.weight.shape[1]

    @property
    def vocab_size(self) -> int:
        """Number of logits."""
        return self._unembedding.weight.shape[0]

    @property
    def n_heads(self) -> int:
        """Number of query heads, 0 where it has none; key and value heads may be fewer."""
        return getattr(self.config, "num_attention_heads", None) or 0

    @property
    def context(self) -> int | None:
        """The longest sequence the model takes, None where it has no limit."""
        limit = getattr(self.config, "max_position_embeddings", None)
        return limit if isinstance(limit, int) and limit > 0 else None

    @property
    def embeddings(self) -> int:
        """Number of ids it reads and predicts: rows of its embeddings, not the configured size."""
        weight = getattr(self.model.get_input_embeddings(), "weight", None)
        rows = len(weight) if isinstance(weight, Tensor) else self.config.vocab_size
        return min(rows, len(self.output_embedding.weight))

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of BOS, EOS and PAD, as far as the tokenizer has them."""
        kinds = ("bos_token_id", "eos_token_id", "pad_token_id")
        ids = {getattr(self.tokenizer, kind, None) for kind in kinds}
        return frozenset(i for i in ids if i is not None)

    @property
    def kind(self) -> str:
        """The model's name and class, for error messages."""
        return f"{self.name} ({type(self.model).__name__})"

    @cached_property
    def trial_ids(self) -> Int[Tensor, "2 pos"]:
        """Two short sequences, different in every token, to test the model's structure on."""
        width = min(TRIAL_TOKENS, self.context or TRIAL_TOKENS)
        every = range(self.embeddings)
        plain = sorted(set(every) - self._named_ids)
        plain = plain if len(plain) > 1 else list(every)
        generator = torch.Generator().manual_seed(0)
        first = torch.randint(len(plain), (width,), generator=generator)
        second = (first + torch.randint(1, max(2, len(plain)), (width,), generator=generator)) % (
            len(plain)
        )
        return torch.tensor(plain)[torch.stack([first, second])].to(self.device)

    @property
    def _named_ids(self) -> set[int]:
        """Ids with a special meaning in the configuration, such as padding or images."""
        both = {**self.model.config.to_dict(), **self.config.to_dict()}
        named = {v for k, v in both.items() if k.endswith(("_token_id", "_token_index"))
                and isinstance(v, int)}  # fmt: skip
        return named | set(self.special_ids)

    @cached_property
    def adapter(self) -> Any:
        """TransformerLens' adapter of this architecture, which maps names; None without one."""
        return _adapter(self.model.config, self.name)

    def adapter_path(self, lens_path: str) -> str | None:
        """Return the module path of a component in TransformerLens' naming.

        None where there is no adapter, the component is unknown, or the model has no such module:
        blocks of a hybrid model differ in their components.
        """
        if self.adapter is None:
            return None
        try:
            path = self.adapter.translate_transformer_lens_path(lens_path)
        except (ValueError, KeyError, IndexError, AttributeError, TypeError):
            return None
        return path if self._is_module(path) else None

    def alias(self, layer: int, hook: str) -> str | None:
        """Return the module whose output is a block's hook, by TransformerLens' adapter."""
        if self.adapter is None:
            return None
        alias = getattr(self.adapter.component_mapping.get("blocks"), "hook_aliases", {}).get(hook)
        if not isinstance(alias, str) or not alias.endswith(".hook_out"):
            return None
        return self.adapter_path(f"blocks.{layer}.{alias.removesuffix('.hook_out')}")

    @cached_property
    def stack(self) -> Stack:
        """The transformer blocks."""
        return find_stack(self)

    @property
    def block_paths(self) -> tuple[str, ...]:
        """Module paths of the transformer blocks, in order."""
        return tuple(block.path for block in self.stack.blocks)

    @cached_property
    def blocks(self) -> tuple[nn.Module, ...]:
        """The transformer blocks, in order."""
        return tuple(self.model.get_submodule(path) for path in self.block_paths)

    def calls(self, layer: int) -> dict[str, Call]:
        """Return the inputs and outputs of a block's modules on the trial tokens, by path.

        Only modules that run exactly once, in the order in which they return; the block is last.
        """
        if layer not in self._calls:
            path = self.block_paths[layer]
            block = self.model.get_submodule(path)
            inner = [
                f"{path}.{name}" for name, _ in block.named_modules(remove_duplicate=False) if name
            ]
            self._calls[layer] = calls_once(record(self, [*inner, path]))
        return self._calls[layer]

    def parts(self, layer: int) -> Parts:
        """Return the modules whose outputs a block adds to the residual stream."""
        if layer not in self._parts:
            self._parts[layer] = find_parts(self, layer)
        return self._parts[layer]

    def unit_norm(self, path: str) -> UnitNorm:
        """Return a norm of the model without its weights.

        Raises:
            HookError: where the module is no such norm.
        """
        if path not in self._unit_norms:
            module = self.model.get_submodule(path)
            self._unit_norms[path] = UnitNorm(module, path, width=self.stack.width)
        return self._unit_norms[path]

    @cached_property
    def is_blind_to_mean(self) -> bool:
        """True where adding a constant to the residual stream changes nothing.

        All norms that read it then subtract its mean.
        """
        first = self.blocks[0]
        shift: list[float] = []

        def shifted(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            x = argument(first, args, kwargs)
            shift.append(3 * float(x.float().std()))
            return with_argument(first, args, kwargs, x + shift[0])

        with torch.inference_mode():
            expected = self.final_hidden(self.trial_ids)
            with first.register_forward_pre_hook(shifted, with_kwargs=True):
                actual = self.final_hidden(self.trial_ids)
        # RMS norms would shrink the rest to a third; the rounding error scales with the shift.
        tolerance = max(1e-3, 16 * self.rounding)
        return bool((actual - expected).abs().max() <= tolerance * expected.abs().max())

    def final_hidden(self, input_ids: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d"]:
        """Run the model up to and including its final norm; gradients are not switched off."""
        return self.run(input_ids=input_ids, use_cache=False)[0]

    def run(self, **given: Any) -> Any:
        """Run the model without its unembedding, as every pass does.

        Raises:
            HostError: where the model's own code fails on its input.
        """
        with self.gelus_in_one(), self._products(), self._failures_explained(given):
            if not self._reads_early:
                return self.model.base_model(**given)
            return (self._until_unembedding(given),)

    @property
    def runs(self) -> nn.Module:
        """The module that every pass calls."""
        return self.model if self._reads_early else self.model.base_model

    def _until_unembedding(self, given: dict[str, Any]) -> Float[Tensor, "batch pos d"]:
        """Run the model until its output embedding is called, and return the embedding's input."""

        def leave(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            raise _Reached(argument(module, args, kwargs))

        with self.output_embedding.register_forward_pre_hook(leave, with_kwargs=True):
            try:
                self.model(**given)
            except _Reached as reached:
                where = f"{self.kind}: the input of its output embedding"
                return by_token(reached.hidden, given["input_ids"], where=where)
        raise HostError(
            f"{self.kind}: its output embedding is not run, so there "
            "are no final hidden states to read out"
        )

    @contextlib.contextmanager
    def _failures_explained(self, given: dict[str, Any]) -> Iterator[None]:
        """Turn an error in the model's own code into one that names model and input."""
        try:
            yield
        except SaebenchError:
            raise
        except Exception as error:
            # transformers' code may raise anything on tokens that it cannot take.
            if is_out_of_memory(error):
                raise
            lines = str(error).strip().splitlines()
            shape = tuple(given["input_ids"].shape)
            raise HostError(
                f"{self.kind} cannot be run on {shape[0]} sequences "
                f"of {shape[1]} tokens: {type(error).__name__}: {lines[0] if lines else ''}"
            ) from error

    @contextlib.contextmanager
    def _products(self) -> Iterator[None]:
        """Multiply matrices in TF32 while the context lasts, where the host is to."""
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
        """Apply GPT-2's GELU by torch's own operation while the context lasts; nested use is fine.

        transformers composes it of eight operations, each of which goes through memory. Torch's is
        equal within an fp32 rounding, in a sixth of the time.
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
        gelus = [m for m in self.model.modules() if type(m).__name__ == "NewGELUActivation"]
        return tuple(m for m in gelus if "forward" not in vars(m))

    def logits_memory(self, rows: int) -> Float[Tensor, "rows vocab"]:
        """Return memory for logits, to give to :meth:`logits` repeatedly."""
        return self._unembedding.memory(rows)

    def logits(
        self, hidden: Float[Tensor, "rows d"], *, out: Float[Tensor, "rows vocab"] | None = None
    ) -> Float[Tensor, "rows vocab"]:
        """Unembed rows of final hidden states in fp32, whatever the model's dtype.

        Args:
            hidden: the rows.
            out: memory for the logits, from :meth:`logits_memory`.
        """
        return self._unembedding.logits(hidden, out=out)

    def back_through_logits(
        self, slope: Float[Tensor, "rows vocab"], logits: Float[Tensor, "rows vocab"]
    ) -> Float[Tensor, "rows d"]:
        """Return the gradient in hidden states, given a gradient in the logits.

        Args:
            slope: the gradient in the logits; may be overwritten.
            logits: the result of :meth:`logits` for the hidden states.
        """
        return self._unembedding.backward(slope, logits)

    @property
    def output_embedding(self) -> Any:
        """The module that maps final hidden states to logits.

        Raises:
            HostError: where the model has none, or several.
        """
        output = self.model.get_output_embeddings()
        if not isinstance(getattr(output, "weight", None), Tensor):
            raise HostError(
                f"{self.kind}: expected one output embedding, found "
                f"{type(output).__name__}; it is no language model with one vocabulary of logits"
            )
        return output

    def has_module(self, path: str) -> bool:
        """True for a module's path, relative to the model or to its base model."""
        return self._is_module(self.full_path(path))

    def _is_module(self, path: str) -> bool:
        try:
            self.model.get_submodule(path)
        except AttributeError:
            return False
        return path != ""

    def full_path(self, path: str) -> str:
        """Return a module's path relative to the model.

        Tools that use AutoModel omit the base model's prefix, and in a multimodal wrapper the
        language model's blocks are nested deeper than in the language model alone. Other texts
        are returned unchanged.
        """
        below = f"{self.model.base_model_prefix}.{path}"
        spellings = [path, below]
        if match := re.fullmatch(r"(?:[a-z_]+\.)*?([a-z_]+)\.(\d+)(\..*)?", path):
            name, number, inside = match.groups()
            if self.stack.path.rsplit(".", 1)[-1] == name:
                spellings.append(f"{self.stack.path}.{number}{inside or ''}")
        return next((each for each in spellings if self._is_module(each)), path)

    def record(self) -> ModelRecord:
        """Return the model's entry of the result file."""
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
    def _check_end(self) -> None:
        """Find the final hidden states and the last step that reproduce the model's logits.

        Raises:
            HostError: where none do.
        """
        ids = self.trial_ids
        given = {"input_ids": ids, "use_cache": False}
        with self._failures_explained(given):
            theirs = self.model(**given).logits.flatten(0, 1).float()
        if not torch.isfinite(theirs).all():
            raise HostError(
                f"{self.name}: its logits are NaN or infinite; are the weights damaged?"
            )
        self._unembedding = Unembedding(self.output_embedding, columns=theirs.shape[-1])
        tolerance = 1e-4 if self.is_fp32 else 5e-2
        for early in (False, True):
            self._reads_early = early
            z = self._unembedded(ids)
            step = None
            if z is not None and z.shape == theirs.shape:
                step = find_last_step(z, theirs, self.config, tolerance=tolerance)
            if step is not None:
                self._unembedding.last_step = step
                return
        raise HostError(
            f"{self.kind}: its logits are not its output embedding "
            "applied to its final hidden state, times a scale or soft-capped at most, so "
            "substitutions cannot be read out"
        )

    def _unembedded(self, ids: Int[Tensor, "batch pos"]) -> Tensor | None:
        """Return the unembedded final hidden states; None where their shape does not fit."""
        try:
            hidden = self.final_hidden(ids)
        except HostError:
            if self._reads_early:
                raise
            return None
        if not isinstance(hidden, Tensor) or hidden.shape != (*ids.shape, self.d_model):
            return None
        return self.logits(hidden.flatten(0, 1))  # without a last step yet

    @torch.inference_mode()
    def _check_causal(self) -> None:
        """Refuse a model whose predictions depend on later tokens, which makes KL meaningless.

        Raises:
            HostError: for such a model.
        """
        ids = self.trial_ids
        if ids.shape[1] < 2 or self.embeddings < 2:
            return
        changed = ids.clone()
        changed[:, -1] = ids.flip(0)[:, -1]
        before, after = (self.final_hidden(each)[:, :-1] for each in (ids, changed))
        if not is_close(after, before, self):
            raise HostError(
                f"{self.kind} is not a causal language model: "
                "changing a token changes what is predicted before it; where its configuration "
                "has is_decoder, set it to true"
            )


class _Reached(Exception):  # noqa: N818
    """Ends a pass at the output embedding, and carries its input."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


def _adapter(config: Any, name: str) -> Any:
    """Build the architecture's adapter without building a Bridge; None where there is none."""
    from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_config_from_hf
    from transformer_lens.model_bridge.sources.transformers import (
        determine_architecture_from_hf_config,
    )

    try:
        architecture = determine_architecture_from_hf_config(config)
        bridge = build_bridge_config_from_hf(config, architecture, name, torch.float32)
        return ArchitectureAdapterFactory.select_architecture_adapter(bridge)
    except Exception:
        # Adapters read sizes under names that not every configuration has. Without an adapter, the
        # model's structure is found by running the model.
        return None
