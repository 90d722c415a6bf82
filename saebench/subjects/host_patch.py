"""host_patch.safetensors: half-layers that were trained with an SAE, beside its weights."""

import copy
import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saebench.errors import HostError, SubjectError
from saebench.subjects.host import Host

FILE = "host_patch.safetensors"
FORMAT = "saebench host patch 1"


def write_patch(directory: Path, tensors: dict[str, Tensor], *, host: Host) -> None:
    """Write the changed parameters beside an SAE.

    Args:
        directory: the SAE's.
        tensors: changed parameters by their name in the model.
        host: the model before the change.
    """
    from safetensors.torch import save_file

    told = {"format": FORMAT, "model": host.name, "model_weights_sha256": _hash(host)}
    save_file({n: t.contiguous() for n, t in tensors.items()}, directory / FILE, metadata=told)


def patch_file(directory: Path | None) -> Path | None:
    """Return the patch beside an SAE, where there is one."""
    if directory is None or not (directory / FILE).is_file():
        return None
    return directory / FILE


def host_for(host: Host, directory: Path | None) -> Host:
    """Return the model that an SAE of this directory belongs into: patched where it says so.

    Raises:
        UsageError: as :func:`patched_host` does.
    """
    file = patch_file(directory)
    return host if file is None else patched_host(host, file)


def patched_host(host: Host, file: Path) -> Host:
    """Return a copy of a model with a patch in it; the model is left as it is.

    The copy knows the model that it was made of as ``original``, and is called by the patch too.

    Args:
        host: the model.
        file: the patch.

    Raises:
        SubjectError: where the file is damaged, or no patch.
        HostError: where it belongs to another model.
    """
    tensors, told = _read(file)
    if told.get("model_weights_sha256") != _hash(host):
        raise HostError(
            f"{file}: was trained on other weights than those of {host.name} (it names "
            f"{told.get('model')!r}); give that model: --sae-model PATH|NAME"
        )
    model = copy.deepcopy(host.model)
    own = dict(model.named_parameters())
    for name, tensor in tensors.items():
        if name not in own or own[name].shape != tensor.shape:
            raise SubjectError(f"{file}: {name} {tuple(tensor.shape)} is no weight of {host.name}")
        with torch.no_grad():
            own[name].copy_(tensor)
    sha = hashlib.sha256(file.read_bytes()).hexdigest()
    found = Host(model, host.tokenizer, name=f"{host.name}+patch-{sha[:8]}", tf32=host.tf32)
    found.notes = host.notes
    found.original = host
    return found


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            content: Any = opened
            told = content.metadata() or {}
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise SubjectError(f"{file}: no safetensors file that can be read: {error}") from error
    if told.get("format") != FORMAT:
        raise SubjectError(f"{file}: expected format {FORMAT!r}, found {told.get('format')!r}")
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise SubjectError(f"{file}: {name} has values that are NaN or infinite")
    return tensors, told


def _hash(host: Host) -> str:
    return host.record().weights_sha256
