"""What SAELens' registry fetches, looked at before SAELens opens it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from saebench.formats.archives import check_tensors_alone, npz_shapes
from saebench.formats.files import (
    PICKLES,
    check_memory,
    check_size,
    read_object,
    safetensors_shapes,
)
from saebench.formats.foreign import refuse_vision
from saebench.formats.saelens_config import check_activation
from saebench.formats.saelens_keys import check_keys
from saebench.formats.values import refuse_shadowing

# Under which names configurations say how wide an SAE is.
SIZES = ("d_in", "d_sae", "d_model", "act_size", "dict_size", "activation_dim", "num_latents")
WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


def check_download(path: Path) -> None:
    """Refuse a file that could run code, or whose sizes are none.

    Raises:
        SubjectError: naming the file.
    """
    if path.suffix == ".json":
        _check_sizes(path)
        if path.name == "cfg.json":
            _check_saelens(path)
    elif path.suffix == ".npz":
        check_memory(path, npz_shapes(path))
    elif path.suffix == ".safetensors":
        check_memory(path, safetensors_shapes(path))
    elif path.suffix in PICKLES:
        check_tensors_alone(path)


@contextmanager
def checked_downloads() -> Iterator[None]:
    """Check each file that SAELens' converters fetch, and let none of them open more than tensors.

    They call ``torch.load`` without ``weights_only``; an environment variable of torch's can turn
    its default off, and another one forces it on.
    """
    from sae_lens.loading import pretrained_sae_loaders as loaders

    fetch, forced = loaders.hf_hub_download, os.environ.get(WEIGHTS_ONLY)
    ask = loaders.get_safetensors_tensor_shapes

    def checked(*args: Any, **kwargs: Any) -> str:
        path = fetch(*args, **kwargs)
        check_download(Path(path))
        return path

    def shapes(repo_id: str, filename: str) -> dict[str, list[int]]:
        # SAELens asks the hub's server for them, which fails offline. The file is needed anyway.
        found = safetensors_shapes(Path(checked(repo_id, filename)))
        return {name: list(shape) for name, shape in found.items()}

    loaders.hf_hub_download = checked
    loaders.get_safetensors_tensor_shapes = shapes
    os.environ[WEIGHTS_ONLY] = "1"
    try:
        yield
    finally:
        loaders.hf_hub_download = fetch
        loaders.get_safetensors_tensor_shapes = ask
        if forced is None:
            del os.environ[WEIGHTS_ONLY]
        else:
            os.environ[WEIGHTS_ONLY] = forced


def _check_saelens(path: Path) -> None:
    """Refuse what SAELens would leave out of its own configurations without a word."""
    told = read_object(path)
    refuse_vision(told, where=str(path))
    check_keys(told, where=str(path))
    check_activation(told, where=str(path))


def _check_sizes(path: Path) -> None:
    told = read_object(path)
    refuse_shadowing(told, where=str(path))
    inside = [value for value in told.values() if isinstance(value, dict)]
    for table in (told, *inside):
        for key in SIZES:
            if table.get(key):
                check_size(table, key, where=str(path))
