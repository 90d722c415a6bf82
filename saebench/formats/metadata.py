"""SAE metadata: hook, model, training context; parsed and checked without torch."""

from dataclasses import dataclass, replace
from typing import Any

from saebench.errors import SubjectError, nearest
from saebench.formats.files import check_size
from saebench.formats.saelens_keys import check_values
from saebench.options import SHORTEST_CONTEXT, Overrides
from saebench.text import plain_text

LARGEST_CONTEXT = 1 << 30
ARCHITECTURES = (
    "standard",
    "gated",
    "topk",
    "abstopk",
    "jumprelu",
    "batchtopk",
    "matryoshka_batchtopk",
    "matching_pursuit",
)
TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
OLD_NAMES = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index"}
NOTES = "saebench_notes"  # the key under which formats add notes to a configuration


@dataclass(frozen=True)
class SubjectMetadata:
    """An SAE's hook and facts of its training.

    A transcoder's ``hook`` is its output's, where its prediction is compared and substituted, and
    ``input_hook`` is where it reads; None for an SAE, which reads where it writes.
    ``seqpos_slice`` is the slice of positions that it was trained on, empty for all positions, and
    ``excluded_tokens`` the ids left out of its training, or True for the tokenizer's special ones.
    """

    hook: str
    model_name: str | None
    training_context: int | None
    prepend_bos: bool
    head: int | None
    module_path: bool
    centred: bool
    dataset_path: str | None
    notes: tuple[str, ...] = ()
    input_hook: str | None = None
    input_head: int | None = None
    seqpos_slice: tuple[int | None, ...] = ()
    excluded_tokens: bool | tuple[int, ...] = False


def check_config(config: dict[str, Any], *, where: str) -> None:
    """Refuse a configuration of an SAE that saebench cannot judge.

    Raises:
        SubjectError: for unknown architectures, sizes that are no positive integers, values of
            a wrong type, and misspelt keys.
    """
    architecture = config.get("architecture", "standard")
    if architecture == "temporal":
        raise SubjectError(
            f"{where}: a temporal SAE predicts each activation from those before it; saebench "
            "encodes tokens independently, so it cannot be judged"
        )
    known = (*ARCHITECTURES, *TRANSCODERS)
    if architecture not in known:
        raise SubjectError(
            f"{where}: unknown architecture {architecture!r}{nearest(str(architecture), known)}"
        )
    for key in ("d_in", "d_sae"):
        check_size(config, key, where=where)
    check_values(config, where=where)


def metadata_of(config: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata: a nested object since SAELens 6, top-level keys before."""
    nested = config.get("metadata")
    if isinstance(nested, dict):
        return nested
    return {OLD_NAMES.get(key, key): value for key, value in config.items()}


def parse_metadata(config: dict[str, Any], overrides: Overrides, *, where: str) -> SubjectMetadata:
    """Return the metadata that judging needs, with the user's overrides.

    Raises:
        SubjectError: for missing or malformed values, naming the option that supplies them.
    """
    data = metadata_of(config)
    hook, head, input_hook, input_head = _hooks(config, data, overrides, where)
    prepend_bos, notes = _prepend_bos(data, overrides, where)
    kwargs = _optional(data, "model_from_pretrained_kwargs", dict, where) or {}
    metadata = SubjectMetadata(
        hook=hook,
        model_name=_optional(data, "model_name", str, where),
        training_context=_training_context(data, overrides, where),
        prepend_bos=prepend_bos,
        head=head,
        module_path=data.get("model_class_name") == "AutoModelForCausalLM",
        centred=bool(kwargs.get("center_writing_weights", False)),
        dataset_path=_optional(data, "dataset_path", str, where),
        input_hook=input_hook,
        input_head=input_head,
        seqpos_slice=_positions(data, where),
        excluded_tokens=_excluded(data, where),
    )
    own = tuple(str(note) for note in _optional(data, "notes", list, where) or ())
    own += tuple(config.get(NOTES, ())) + _position_note(metadata)
    own += _transcoder_note(metadata) + _ignored_kwargs(kwargs, metadata)
    return replace(metadata, notes=notes + own)


def _hooks(
    config: dict[str, Any], data: dict[str, Any], overrides: Overrides, where: str
) -> tuple[str, int | None, str | None, int | None]:
    """Return hook and head of the output and, for a transcoder, of the input."""
    hook = overrides.hook or _optional(data, "hook_name", str, where)
    transcodes = config.get("transcodes") or _is_transcoder(config, data)
    if not hook:
        also = " of its input, and --sae-hook-out of its output: a transcoder" if transcodes else ""
        raise SubjectError(
            f"{where}: metadata has no hook_name, the hook in the model that the SAE belongs to;"
            f" give it: --sae-hook blocks.LAYER.hook_resid_pre (from Python: hook=…){also}"
        )
    head = _optional(data, "hook_head_index", int, where)
    hook_out = overrides.hook_out or _optional(data, "hook_name_out", str, where)
    if hook_out in (None, hook) and not transcodes:
        return hook, head, None, None
    if not hook_out:
        raise SubjectError(
            f"{where}: a transcoder, and metadata has no hook_name_out, the hook whose activation "
            "it predicts; give it: --sae-hook-out blocks.LAYER.hook_mlp_out (from Python: "
            "hook_out=…)"
        )
    # SAELens' other names for the input of an MLP differ with the host library; this one does not.
    exact = None if overrides.hook else _optional(data, "hf_hook_name", str, where)
    return hook_out, _optional(data, "hook_head_index_out", int, where), exact or hook, head


def _is_transcoder(config: dict[str, Any], data: dict[str, Any]) -> bool:
    wider = config.get("d_out", config.get("d_in")) != config.get("d_in")
    elsewhere = data.get("hf_hook_name_out") not in (None, data.get("hf_hook_name"))
    return wider or elsewhere or str(config.get("architecture", "")).endswith("transcoder")


def _positions(data: dict[str, Any], where: str) -> tuple[int | None, ...]:
    """Return the slice of positions that the SAE was trained on, empty for all positions."""
    stored = data.get("seqpos_slice")
    if stored is None:
        return ()
    parts = tuple(stored) if isinstance(stored, list | tuple) else (stored,)
    fits = all(p is None or (isinstance(p, int) and not isinstance(p, bool)) for p in parts)
    if not fits or not 0 < len(parts) <= 3 or (len(parts) == 3 and parts[2] == 0):
        raise SubjectError(
            f"{where}: metadata.seqpos_slice must be arguments of Python's slice, found {stored!r}"
        )
    context = data.get("context_size")
    every = range(context if isinstance(context, int) and context > 0 else LARGEST_CONTEXT)
    return () if every[slice(*parts)] == every else parts


def _excluded(data: dict[str, Any], where: str) -> bool | tuple[int, ...]:
    """Return the token ids left out of training; True for the tokenizer's special ones."""
    excluded = data.get("exclude_special_tokens")
    if excluded is None or isinstance(excluded, bool):
        return bool(excluded)
    if isinstance(excluded, list) and all(type(token) is int for token in excluded):
        return tuple(excluded)
    raise SubjectError(
        f"{where}: metadata.exclude_special_tokens must be bool or a list of ids, found "
        f"{excluded!r}"
    )


def _position_note(metadata: SubjectMetadata) -> tuple[str, ...]:
    if not metadata.seqpos_slice:
        return ()
    parts = ", ".join(map(str, metadata.seqpos_slice))
    return (
        f"trained on the positions slice({parts}) of each context alone (seqpos_slice): judged at "
        "all positions that are scored",
    )


def _training_context(data: dict[str, Any], overrides: Overrides, where: str) -> int | None:
    context = overrides.training_context
    if context is None:
        context = _optional(data, "context_size", int, where)
    if context is not None and context < SHORTEST_CONTEXT:
        raise SubjectError(
            f"{where}: a training context of {context} tokens; expected {SHORTEST_CONTEXT} or more "
            "(metadata.context_size, --sae-training-context N)"
        )
    return context


def _prepend_bos(
    data: dict[str, Any], overrides: Overrides, where: str
) -> tuple[bool, tuple[str, ...]]:
    """Return whether the SAE was trained with BOS first, and a note where that is assumed."""
    if overrides.prepend_bos is not None:
        return overrides.prepend_bos, ()
    stored = _optional(data, "prepend_bos", bool, where)
    if stored is not None:
        return stored, ()
    note = "metadata has no prepend_bos: taken as true (--sae-prepend-bos false changes it)"
    return True, (note,)


def _optional(data: dict[str, Any], key: str, kind: type, where: str) -> Any:
    value = data.get(key)
    if value is None:
        return None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise SubjectError(
            f"{where}: metadata.{key} must be {kind.__name__}, found {type(value).__name__}"
        )
    if kind is str and value != plain_text(value):
        raise SubjectError(f"{where}: metadata.{key} has invisible characters: {value!r}")
    return value


def _transcoder_note(metadata: SubjectMetadata) -> tuple[str, ...]:
    if metadata.input_hook is None:
        return ()
    return (f"a transcoder: reads {metadata.input_hook}, judged by what it predicts at its output",)


def _ignored_kwargs(kwargs: dict[str, Any], metadata: SubjectMetadata) -> tuple[str, ...]:
    """Return notes on weight processing that the training used and saebench does not repeat.

    center_unembed changes no activation and no probability; fold_ln changes only outputs of
    norms, which transcoders read; fold_value_biases moves a constant into hook_z.
    """
    harmless = {"center_writing_weights", "center_unembed"}
    if metadata.input_hook is None:
        harmless.add("fold_ln")
    if not metadata.hook.endswith("hook_z"):
        harmless.add("fold_value_biases")
    rest = sorted(k for k, v in kwargs.items() if k not in harmless and v)
    return (f"trained with model_from_pretrained_kwargs {rest}: not honoured",) if rest else ()
