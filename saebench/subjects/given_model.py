"""Checks of model objects: those that would give other numbers than expected are refused.

Resumed passes replace block inputs and module outputs by substituted values. Foreign hooks would
run on these values again, a wrapper would hide the hooked modules, and offloaded weights cannot be
read.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from saebench.errors import HostError, OptionError

TF32 = "tf32"
# Hooks that only record outputs for the caller: transformers installs them permanently.
HARMLESS = ("transformers.utils.output_capturing",)
WRAPPERS = ("module", "_orig_mod", "model", "_model", "hf_model", "base_model")
QUANTISED = ("4bit", "8bit", "quant", "gptq", "awq", "hqq", "fp8", "bitlinear")


def check_given(model: Any) -> None:
    """Refuse a model object that cannot be judged unchanged.

    Args:
        model: the object.

    Raises:
        HostError: naming the obstacle, and what to give instead.
    """
    refuse: tuple[Callable[[Any], None], ...] = (
        _refuse_lens, _refuse_wrappers, _refuse_adapters, _refuse_compiled, refuse_quantised,
        _refuse_places, _refuse_accelerate, _refuse_kind, _refuse_hooks,
    )  # fmt: skip
    for each in refuse:
        each(model)


def check_asked(model: Any, *, device: str, dtype: str) -> None:
    """Refuse options that differ from a model object's device or dtype, which are not changed.

    Args:
        model: the object.
        device: the requested device, or ``auto``.
        dtype: the requested dtype; ``float32`` is the default and never refused.

    Raises:
        OptionError: naming both, and how to convert the model.
    """
    parameter = next(model.parameters())
    wanted = None if device == "auto" else torch.device(device)
    if wanted is not None and (
        wanted.type != parameter.device.type or wanted.index not in (None, parameter.device.index)
    ):
        raise OptionError(
            f"judge(device={device!r}): the model given is on {parameter.device}; a model object "
            f"is judged where it is: model.to({device!r})"
        )
    own = str(model.dtype).removeprefix("torch.")
    if dtype not in ("float32", own, TF32):
        raise OptionError(
            f"judge(dtype={dtype!r}): the model given is in {own}; a model object is judged as it "
            f"is: load it so, from_pretrained(NAME, dtype=torch.{dtype})"
        )


def check_tokenizer(tokenizer: Any) -> None:
    """Refuse a tokenizer object that does not return a list of ids for a text.

    Args:
        tokenizer: the object.

    Raises:
        HostError: naming the object or its result.
    """
    try:
        ids = tokenizer("a", add_special_tokens=False, verbose=False)["input_ids"]
    except Exception as error:
        # Any object may be given: not callable, with other arguments, or with another result.
        actual = f"{type(tokenizer).__name__} ({error})"
        raise HostError(
            f"tokenizer: expected one of transformers', found {actual}; "
            "of the library tokenizers: transformers.PreTrainedTokenizerFast(tokenizer_object=…)"
        ) from error
    if not isinstance(ids, list) or not all(isinstance(id, int) for id in ids):
        raise HostError(
            f"tokenizer: expected a list of ids for a text, {type(tokenizer).__name__} gives "
            f"{type(ids).__name__}; of a processor give its tokenizer: processor.tokenizer"
        )


def _refuse_lens(model: Any) -> None:
    """Refuse TransformerLens' models, which compute something else or run other modules."""
    root = _package(model)
    inside = next((name for name, m in _named(model) if _package(m) == "transformer_lens"), None)
    if root != "transformer_lens" and inside is None:
        return
    actual = type(model).__name__ if root == "transformer_lens" else f"modules of it ({inside})"
    raise HostError(
        f"model: expected a transformers model, found TransformerLens' {actual}; give the model's "
        "name, or load it anew with transformers.AutoModelForCausalLM"
    )


def _refuse_wrappers(model: Any) -> None:
    """Refuse objects that are no language model, but may contain one."""
    known = isinstance(model, nn.Module) and all(
        hasattr(model, n) for n in ("config", "base_model")
    )
    if known and type(model).__name__ != "OptimizedModule":
        return
    inner = next((n for n in WRAPPERS if _is_language_model(getattr(model, n, None))), None)
    instead = f"; give what it wraps: model.{inner}" if inner else ""
    raise HostError(
        "model: expected a transformers causal language model, a directory or a name, found "
        f"{type(model).__name__}{instead}"
    )


def _refuse_adapters(model: Any) -> None:
    adapted = next((name for name, m in _named(model) if _package(m) == "peft"), None)
    if adapted is None and not getattr(model, "peft_config", None):
        return
    at = f" at {adapted}" if adapted else ""
    raise HostError(
        f"model: expected a plain transformers model, found adapters of PEFT{at}; merge the "
        "adapter: model = model.merge_and_unload()"
    )


def _refuse_compiled(model: Any) -> None:
    for name, module in _named(model):
        if getattr(module, "_compiled_call_impl", None) is not None:
            raise HostError(
                f"model: {name or 'the model'} was compiled (torch.compile), so that nothing can "
                "be substituted in it; give the model before it was compiled, or its name"
            )


def refuse_quantised(model: Any) -> None:
    """Refuse a quantised model: its products may depend on the batch, and its weights are packed.

    Args:
        model: the object.

    Raises:
        HostError: naming what is quantised.
    """
    what = getattr(model, "quantization_method", None) or next(_quantised(model), None)
    if what is None:
        return
    raise HostError(
        f"model: its weights are quantised ({what}), which gives other numbers in other batches; "
        "give it in float32, bfloat16 or float16: model = model.dequantize(), or load it without "
        "quantization_config"
    )


def _quantised(model: nn.Module) -> Iterator[str]:
    for name, module in _named(model):
        kind = type(module).__name__
        if type(module) is NonDynamicallyQuantizableLinear:
            continue  # of nn.MultiheadAttention, and not quantised in spite of its name
        if (
            any(word in kind.lower() for word in QUANTISED)
            or ".quantized" in type(module).__module__
        ):
            yield f"{kind} at {name}"
    weights = ((n, p) for n, p in model.named_parameters() if n.endswith("weight"))
    for name, parameter in weights:
        if not parameter.is_floating_point() or parameter.element_size() < 2:
            yield f"{name} is {parameter.dtype}"
        elif type(parameter.data) is not torch.Tensor:
            yield f"{name} is a {type(parameter.data).__name__}"


def _refuse_places(model: nn.Module) -> None:
    """Refuse weights that are not loaded, or on several devices."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    away = next((name for name, tensor in tensors if tensor.device.type == "meta"), None)
    if away is not None:
        raise HostError(
            f"model: weights are offloaded or were never loaded ({away} is on device meta); load "
            "it completely on one device: from_pretrained(NAME, device_map=None), or give its name"
        )
    devices = sorted({str(parameter.device) for _, parameter in model.named_parameters()})
    if len(devices) > 1:
        raise HostError(
            f"model: its weights are on {len(devices)} devices ({', '.join(devices)}); give it on "
            f"one: from_pretrained(NAME, device_map={{'': {devices[-1]!r}}})"
        )


def _refuse_accelerate(model: nn.Module) -> None:
    """Refuse accelerate's hooks that do more than move inputs to the weights' one device."""
    for name, module in _named(model):
        for hook in _parts(getattr(module, "_hf_hook", None)):
            harmless = type(hook).__name__ == "AlignDevicesHook" and not hook.offload
            if not harmless:
                raise HostError(
                    f"model: weights are offloaded or cast by accelerate's {type(hook).__name__} "
                    f"on {name or 'the model'}; take it away: "
                    "accelerate.hooks.remove_hook_from_module(model, recurse=True)"
                )


def _parts(hook: Any) -> list[Any]:
    return [] if hook is None else list(getattr(hook, "hooks", (hook,)))


def _refuse_kind(model: Any) -> None:
    """Refuse models that do not predict each next token from the previous ones."""
    name = type(model).__name__
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if output is None:
        why = "it has no output embedding (language-model head)"
    elif getattr(model.config, "is_encoder_decoder", False):
        why = "it is an encoder and a decoder"
    elif name.endswith("ForMaskedLM"):
        why = "it predicts masked tokens from both sides"
    else:
        return
    raise HostError(
        f"model: expected a causal language model, found {name}: {why}; load it with "
        "transformers.AutoModelForCausalLM"
    )


def _refuse_hooks(model: nn.Module) -> None:
    """Refuse foreign hooks, which resumed passes would run on substituted values again."""
    for kind in ("_forward_hooks", "_forward_pre_hooks"):
        if getattr(nn.modules.module, f"_global{kind}", None):
            raise HostError(
                "model: hooks on all modules of the process (torch.nn.modules.module."
                f"register_module{kind.removesuffix('s')}) would be run on substituted values; "
                "remove them: handle.remove()"
            )
        for name, module in _named(model):
            hooks = [h for h in getattr(module, kind).values() if not _is_harmless(h)]
            if hooks:
                raise HostError(_hooked(name, kind, hooks))


def _hooked(name: str, kind: str, hooks: Sequence[Any]) -> str:
    """Return the error message: which hooks there are, and how they are removed."""
    called = getattr(hooks[0], "__qualname__", type(hooks[0]).__name__)
    remove = "handle.remove()"
    if "enable_input_require_grads" in called:  # set by gradient checkpointing, too
        remove = "model.disable_input_require_grads()"
    count = f"{len(hooks)} {kind.strip('_').removesuffix('s').replace('_', ' ')}"
    return (
        f"model: {count}{'s' if len(hooks) > 1 else ''} on {name or 'the model itself'} ({called}) "
        f"would be run on substituted values too, and twice; remove them: {remove}"
    )


def _is_harmless(hook: Any) -> bool:
    return getattr(hook, "__module__", "") in HARMLESS


def _is_language_model(value: Any) -> bool:
    return (
        isinstance(value, nn.Module) and getattr(value, "get_output_embeddings", None) is not None
    )


def _named(model: Any) -> Iterator[tuple[str, nn.Module]]:
    return model.named_modules() if isinstance(model, nn.Module) else iter(())


def _package(module: Any) -> str:
    return type(module).__module__.partition(".")[0]
