"""Loading of host models: from a directory or name, and with a patch next to an SAE."""

import contextlib
import copy
import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saebench.errors import HostError, OptionError, SubjectError
from saebench.formats.library_warnings import listening
from saebench.subjects.given_model import TF32, refuse_quantised
from saebench.subjects.host import Host
from saebench.text import first_line, from_system, is_unicode

DTYPES = {
    "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16,
    TF32: torch.float32,
}  # fmt: skip


def load_host(
    source: str, *, device: str, dtype: str, asked_by: str, name: str | None = None
) -> Host:
    """Load a model by directory or name, from disk, the Hugging Face cache or the hub.

    Args:
        source: a directory, a hub name, or one of TransformerLens' aliases (``gpt2-small``).
        device: torch device.
        dtype: ``float32``, ``bfloat16`` or ``float16``; ``tf32`` for weights in float32 that a
            GPU multiplies in TF32.
        asked_by: where the name comes from, for the error message.
        name: the model's name in results; by default the directory's, or the hub's.

    Raises:
        HostError: where there is no such model, or its weights are not safetensors.
        OptionError: for ``tf32`` on a device without TF32.
    """
    if dtype == TF32:
        check_tf32(device)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = source if Path(source).is_dir() else official_name(source)
    try:
        with _without_bars(), listening() as collected, legible(path) as place:
            tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
            both: Any = AutoModelForCausalLM.from_pretrained(
                place,
                dtype=DTYPES[dtype],
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except Exception as error:
        # transformers may raise anything on a damaged configuration or tokenizer.
        raise HostError(
            f"model {source!r} ({asked_by}) cannot be loaded: {first_line(error)} "
            "Give a directory or a name in the Hugging Face cache: --sae-model PATH|NAME"
        ) from error
    model, loaded = both
    unread = unread_weights(loaded, model=f"model {source!r} ({asked_by})")
    refuse_quantised(model)
    model = model.to(device)
    by_path = from_system(Path(path).resolve().name if Path(path).is_dir() else path)
    host = Host(model, tokenizer, name=name or by_path, tf32=dtype == TF32)
    host.notes = unread + collected.notes(source=f"model {source!r}")
    return host


def unread_weights(loaded: Mapping[str, Any], *, model: str) -> tuple[str, ...]:
    """Return a note on weights in the files that the model does not use.

    Args:
        loaded: transformers' report of the loading.
        model: what messages call the model.

    Raises:
        HostError: for weights of the model that the files lack, or have in another shape:
            transformers initialises them at random.
    """
    missing = sorted(loaded.get("missing_keys", ()))
    mismatched = sorted(str(key) for key, *_ in loaded.get("mismatched_keys", ()))
    for names, what in ((missing, "do not have"), (mismatched, "have in another shape")):
        if names:
            raise HostError(
                f"{model}: its files {what} {len(names)} of the model's weights "
                f"({_few(names)}), which would be random numbers; is the checkpoint complete, and "
                "of a causal language model?"
            )
    unexpected = sorted(loaded.get("unexpected_keys", ()))
    if not unexpected:
        return ()
    return (
        f"the model's files hold {len(unexpected)} weights that it has no place for: "
        f"{_few(unexpected)}",
    )


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def check_tf32(device: str) -> None:
    """Refuse TF32 on a device without it.

    Raises:
        OptionError: naming the device.
    """
    if not has_tf32(device):
        raise OptionError(
            f"--sae-dtype tf32 needs an NVIDIA GPU of compute capability 8.0 or more, found device "
            f"{device}; leave the option out for float32"
        )


def has_tf32(device: str) -> bool:
    """True for a GPU that multiplies matrices in TF32: NVIDIA's, from Ampere on.

    Example:
        >>> has_tf32("cpu")
        False
    """
    is_gpu = torch.device(device).type == "cuda" and torch.version.hip is None
    return is_gpu and torch.cuda.get_device_capability(device)[0] >= 8


def official_name(name: str) -> str:
    """Return the hub name of one of TransformerLens' aliases; other names unchanged.

    Example:
        >>> official_name("gpt2-small")
        'gpt2'
    """
    from transformer_lens.supported_models import MODEL_ALIASES

    for official, aliases in MODEL_ALIASES.items():
        if name in aliases:
            return official
    return name


@contextlib.contextmanager
def legible(path: str) -> Iterator[str]:
    """Provide a path that every library can open, while the context lasts.

    In the C locale, Python represents a path that is not ASCII with lone surrogates, which
    tokenizers' Rust code refuses: a symbolic link with an ASCII name replaces it.

    Args:
        path: a directory, or a name, which is provided unchanged.
    """
    if is_unicode(path) or not Path(path).exists():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="saebench-") as root:
        link = Path(root, "link")
        link.symlink_to(Path(path).resolve())
        yield str(link)


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Switch off transformers' loading bars, which would break pytest's line in the terminal."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            logging.enable_progress_bar()


FILE = "host_patch.safetensors"
FORMAT = "saebench host patch 1"


def write_patch(directory: Path, tensors: dict[str, Tensor], *, host: Host) -> None:
    """Write changed parameters of the model into an SAE's directory.

    Args:
        directory: the SAE's directory.
        tensors: changed parameters by their name in the model.
        host: the model before the change.
    """
    from safetensors.torch import save_file

    header = {"format": FORMAT, "model": host.name, "model_weights_sha256": _hash(host)}
    save_file({n: t.contiguous() for n, t in tensors.items()}, directory / FILE, metadata=header)


def patch_file(directory: Path | None) -> Path | None:
    """Return the patch in an SAE's directory; None without one."""
    if directory is None or not (directory / FILE).is_file():
        return None
    return directory / FILE


def host_for(host: Host, directory: Path | None) -> Host:
    """Return the host of an SAE's directory: patched where the directory has a patch.

    Raises:
        UsageError: as :func:`patched_host` does.
    """
    file = patch_file(directory)
    return host if file is None else patched_host(host, file)


def host_asked_for(
    host: Host, directory: Path | None, *, patch: bool
) -> tuple[Host, tuple[str, ...]]:
    """Return the host that an SAE is judged in, and notes on its patch.

    A patch replaces the model that the SAE is compared with: it is applied on request only.

    Args:
        host: the model as it is.
        directory: the SAE's directory, if it has one.
        patch: the run was asked to apply patches.

    Raises:
        UsageError: as :func:`patched_host` does.
    """
    file = patch_file(directory)
    if file is None:
        return host, ()
    if not patch:
        return host, (
            f"its directory has {FILE}, which was not applied: judged in {host.name} as it is "
            "(--sae-host-patch judges it in the patched model)",
        )
    patched = patched_host(host, file)
    note = (
        f"judged in {patched.name}, the model that {FILE} of its directory makes of {host.name} "
        "(--sae-host-patch); tax is what that costs"
    )
    return patched, (note,)


def patched_host(host: Host, file: Path) -> Host:
    """Return a patched copy of a model, which is not changed itself.

    The copy has the model as its ``original``, and the patch's hash in its name.

    Args:
        host: the model.
        file: the patch.

    Raises:
        SubjectError: for a damaged file, or one that is no patch.
        HostError: where it belongs to another model.
    """
    tensors, header = _read(file)
    if header.get("model_weights_sha256") != _hash(host):
        raise HostError(
            f"{file}: was trained on other weights than those of {host.name} (it names "
            f"{header.get('model')!r}); give that model: --sae-model PATH|NAME"
        )
    model = copy.deepcopy(host.model)
    own = dict(model.named_parameters())
    for name, tensor in tensors.items():
        if name not in own or own[name].shape != tensor.shape:
            raise SubjectError(f"{file}: {name} {tuple(tensor.shape)} is no weight of {host.name}")
        with torch.no_grad():
            own[name].copy_(tensor)
    sha = hashlib.sha256(file.read_bytes()).hexdigest()
    patched = Host(model, host.tokenizer, name=f"{host.name}+patch-{sha[:8]}", tf32=host.tf32)
    patched.notes = host.notes
    patched.original = host
    return patched


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            content: Any = opened
            header = content.metadata() or {}
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise SubjectError(f"{file}: no safetensors file that can be read: {error}") from error
    if header.get("format") != FORMAT:
        raise SubjectError(f"{file}: expected format {FORMAT!r}, found {header.get('format')!r}")
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise SubjectError(f"{file}: {name} has values that are NaN or infinite")
    return tensors, header


def _hash(host: Host) -> str:
    return host.record().weights_sha256
