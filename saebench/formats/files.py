"""Readers and checks of configurations and weight headers, used before anything is allocated.

No torch is imported here.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from saebench.errors import SubjectError
from saebench.text import is_unicode

LARGEST_CONFIG_BYTES = 1 << 20
DEEPEST_CONFIG = 32  # objects and lists inside one another; SAELens writes 3
LARGEST_SIZE = 2**31
LOADED_BYTES = 4  # of a weight once loaded, in fp32, whatever the file's dtype
PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")
BIASES = ("b_enc", "b_dec", "threshold", "log_threshold", "b_gate", "b_mag", "r_mag",
          "encoder.bias")  # fmt: skip

Shape = tuple[int, ...]


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        SubjectError: for a file that is missing, too large, nested too deeply, or no JSON object.
    """
    check_regular(path)
    try:
        if path.stat().st_size > LARGEST_CONFIG_BYTES:
            raise SubjectError(f"{path}: {path.stat().st_size} bytes is no SAE configuration")
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SubjectError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise SubjectError(f"{path}: not valid JSON ({error}); save the SAE again") from error
    if not isinstance(config, dict):
        raise SubjectError(f"{path}: expected a JSON object, found {type(config).__name__}")
    for depth, text in _texts(config):
        if depth > DEEPEST_CONFIG:
            raise SubjectError(
                f"{path}: nested more than {DEEPEST_CONFIG} deep, as no SAE configuration is"
            )
        if not is_unicode(text):
            raise SubjectError(f"{path}: {text!r} has half a character (a lone surrogate) in it")
    return config


def _texts(config: Any) -> Iterator[tuple[int, str]]:
    """Yield every key and text with its depth, and "" for other values, without recursion."""
    inside: list[tuple[int, Any]] = [(0, config)]
    while inside:
        depth, value = inside.pop()
        yield depth, value if isinstance(value, str) else ""
        if depth > DEEPEST_CONFIG:
            return
        if isinstance(value, dict):
            inside += [(depth + 1, each) for pair in value.items() for each in pair]
        elif isinstance(value, list):
            inside += [(depth + 1, each) for each in value]


def check_regular(path: Path) -> None:
    """Refuse an existing path that is no regular file: a pipe blocks, and /dev/zero never ends.

    Raises:
        SubjectError: naming the path; a missing file is not refused here.
    """
    try:
        refused = path.exists() and not path.is_file()
    except (OSError, ValueError) as error:
        raise SubjectError(f"{path}: cannot be read: {error}") from error
    if refused:
        raise SubjectError(f"{path}: is no regular file")


def check_memory(path: Path, shapes: Mapping[str, Shape]) -> None:
    """Refuse weights that do not fit into memory, before anything is allocated.

    Args:
        path: the weights.
        shapes: the shapes of their tensors.

    Raises:
        SubjectError: with the memory that is needed, and that is free.
    """
    import psutil

    needed = LOADED_BYTES * sum(math.prod(shape) for shape in shapes.values())
    available = psutil.virtual_memory().available
    if needed > available:
        raise SubjectError(
            f"{path}: its weights take {needed / 2**30:.1f} GiB in float32, and "
            f"{available / 2**30:.1f} GiB of memory are free"
        )


def check_size(config: Mapping[str, Any], key: str, *, where: str) -> int:
    """Return a size from a configuration.

    Raises:
        SubjectError: for anything but a positive integer that a tensor's size can be.
    """
    size = config.get(key)
    if not isinstance(size, int) or isinstance(size, bool) or not 0 < size < LARGEST_SIZE:
        raise SubjectError(f"{where}: {key} must be a positive integer, found {size!r}")
    return size


def safetensors_shapes(path: Path) -> dict[str, Shape]:
    """Return the shapes in a safetensors header; truncated files fail before any allocation.

    Raises:
        SubjectError: for a truncated file, another kind of file, or integer weights.
    """
    from safetensors import SafetensorError, safe_open

    check_regular(path)
    try:
        with safe_open(path, framework="numpy") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
            kinds = {name: part.get_dtype() for name, part in slices.items()}
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise SubjectError(
            f"{path}: truncated or no safetensors file ({error}); copy or save it again"
        ) from error
    for name, kind in kinds.items():
        is_weight = len(shapes[name]) > 1 or name in BIASES
        if is_weight and not kind.startswith(("F", "BF")):
            raise SubjectError(
                f"{path}: {name} is of {kind}: quantised weights mean nothing without their scale;"
                " save the SAE in float32, float16 or bfloat16"
            )
    return shapes


def check_shapes(
    actual: Mapping[str, Shape],
    expected: Mapping[str, Shape],
    *,
    weights: Path,
    config_file: str,
) -> None:
    """Check the weights' shapes against those that the configuration implies.

    Raises:
        SubjectError: naming the first that differs, and whether it is transposed.
    """
    for name, shape in expected.items():
        if name in actual and actual[name] != shape:
            transposed = " (transposed)" if actual[name] == shape[::-1] else ""
            raise SubjectError(
                f"{weights}: {name} is {actual[name]}{transposed}, but {config_file} says {shape}"
            )
