"""Files that ``torch.save`` wrote, looked at before they are opened: tensors, and nothing else.

Nothing is run for it: the archive's index and the pickle's instructions are read as data.
"""

import io
import pickle
import pickletools
import struct
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from saebench.errors import SubjectError
from saebench.formats.files import Shape, check_regular

LARGEST_PICKLE_BYTES = 1 << 22  # a state dict's names, shapes and offsets: some kilobytes
STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
NAMES = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    *(f"torch {kind}Storage" for kind in STORAGES),
}
# What the pickle of a dictionary of tensors consists of; INST, OBJ, NEWOBJ, EXT and STACK_GLOBAL,
# which make or look up other things, are not.
INSTRUCTIONS = {
    "PROTO", "MARK", "STOP", "GLOBAL", "REDUCE", "BUILD", "BINPERSID", "NONE", "NEWTRUE",
    "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "BINFLOAT", "EMPTY_DICT",
    "EMPTY_TUPLE", "EMPTY_LIST", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "SETITEM", "SETITEMS",
    "APPEND", "APPENDS", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET",
}  # fmt: skip

# How a number of each kind lies in memory; half precision of the brain kind has no code of its own.
_CODES = {"Float": "f", "Double": "d", "Half": "e", "Long": "q", "Int": "i", "Short": "h",
          "Char": "b", "Byte": "B"}  # fmt: skip


@dataclass(frozen=True)
class PickledTensor:
    """What a pickle says of a tensor: where its numbers lie, and its shape."""

    kind: str
    key: str
    offset: int
    shape: Shape


def pickled_tensors(path: Path) -> dict[str, PickledTensor]:
    """Return what a state dict's pickle says of its tensors; no tensor is made, nothing is run.

    Raises:
        SubjectError: for a pickle that is more than a dictionary of tensors, or damaged.
    """
    check_tensors_alone(path)
    with zipfile.ZipFile(path) as archive:
        instructions = _pickle(path, archive)
    try:
        found = _Headers(io.BytesIO(instructions)).load()
    except Exception as error:
        # Instructions in an order that torch.save never writes end in errors of every kind.
        raise _refused(path, f"its pickle is damaged ({error!r})") from error
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(tensor, PickledTensor)
        for name, tensor in found.items()
    ):
        kind = type(found).__name__
        raise SubjectError(f"{path}: expected a state dict, found {kind}: a dictionary of tensors")
    return dict(found)


def pickled_number(path: Path, tensor: PickledTensor) -> float | int | None:
    """Return the one number of a tensor, or None where it has more or is of another kind."""
    code = _CODES.get(tensor.kind)
    if prod(tensor.shape) != 1 or code is None:
        return None
    size = struct.calcsize(code)
    with zipfile.ZipFile(path) as archive:
        names = [n for n in archive.namelist() if n.endswith(f"/data/{tensor.key}")]
        data = archive.read(names[0]) if len(names) == 1 else b""
    part = data[tensor.offset * size : (tensor.offset + 1) * size]
    return struct.unpack(f"<{code}", part)[0] if len(part) == size else None


class _Dictionary(dict[Any, Any]):
    """A dictionary that may be given attributes, as a state dict's pickle does."""


class _Stand:
    """What stands for a function that a pickle names: one for each name in each file.

    An instruction may set attributes of whatever lies on the stack; here there are none to set
    that another file would meet.
    """

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *given: Any) -> Any:
        return self._make(*given)


class _Headers(pickle.Unpickler):
    """Reads a pickle that :func:`check_tensors_alone` let through; every name is one of ours."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name: none is looked up."""
        made = _STANDING_FOR.get(f"{module} {name}")
        return name.removesuffix("Storage") if made is None else _Stand(made)

    def persistent_load(self, pid: Any) -> Any:
        """Return the storage's kind and key."""
        return pid[1], pid[2]


def _tensor(storage: Any, offset: Any, size: Any, *_: Any) -> PickledTensor:
    kind, key = storage
    shape = tuple(size)
    if not all(isinstance(n, int) and n >= 0 for n in (offset, *shape)):
        raise ValueError(f"a tensor of size {shape}")
    return PickledTensor(kind, str(key), offset, shape)


_STANDING_FOR: Mapping[str, Callable[..., Any]] = {
    "collections OrderedDict": lambda *pairs: _Dictionary(*pairs),
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": lambda data, *_: data,
}


def check_tensors_alone(path: Path) -> None:
    """Refuse a pickle that is more than a dictionary of tensors, without opening it as one.

    ``torch.load(weights_only=True)`` refuses what could run code too, but its unpickler was
    broken twice (CVE-2025-32434, CVE-2026-24747). This lets through only what a state dict needs.

    Raises:
        SubjectError: naming what is refused, and how to convert the file.
    """
    check_regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            instructions = _pickle(path, archive)
    except (OSError, ValueError, NotImplementedError, RuntimeError, zipfile.BadZipFile) as error:
        raise _refused(path, f"truncated or no file of torch.save ({error})") from error
    try:
        for instruction, argument, _ in pickletools.genops(instructions):
            if instruction.name not in INSTRUCTIONS:
                raise _refused(path, f"its pickle holds {instruction.name}")
            if instruction.name == "GLOBAL" and argument not in NAMES:
                raise _refused(path, f"its pickle asks for {str(argument)!r}")
    except (ValueError, IndexError, UnicodeError) as error:
        raise _refused(path, f"its pickle is damaged ({error})") from error


def _pickle(path: Path, archive: zipfile.ZipFile) -> bytes:
    """Return the archive's pickle; its members must be as torch.save lays them out."""
    members = archive.infolist()
    twice = [name for name, count in Counter(m.filename for m in members).items() if count > 1]
    if twice:
        raise _refused(path, f"its archive holds {twice[0]!r} twice")
    packed = [m.filename for m in members if m.compress_type != zipfile.ZIP_STORED]
    if packed or sum(m.file_size for m in members) > path.stat().st_size:
        raise _refused(path, "its archive is compressed, which torch.save never does")
    pickles = [m for m in members if m.filename.endswith(".pkl")]
    if len(pickles) != 1 or not pickles[0].filename.endswith("/data.pkl"):
        raise _refused(path, f"expected one data.pkl, found {[m.filename for m in pickles]}")
    if pickles[0].file_size > LARGEST_PICKLE_BYTES:
        raise _refused(path, f"its pickle has {pickles[0].file_size} bytes")
    return archive.read(pickles[0])


def _refused(path: Path, why: str) -> SubjectError:
    return SubjectError(
        f"{path}: {why}; a pickle that is more than a state dict of tensors could run code, so it "
        "is refused; where you trust it, load it with torch and write the tensors to "
        f"{path.with_suffix('.safetensors').name} with safetensors.torch.save_file"
    )


def npz_shapes(path: Path) -> dict[str, Shape]:
    """Return the shapes in an ``.npz``, from its arrays' headers.

    Raises:
        SubjectError: for a file of another kind, arrays of Python objects, which are pickles, or
            arrays that are larger or smaller than their headers say.
    """
    import numpy as np

    check_regular(path)
    shapes: dict[str, Shape] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                with archive.open(member) as file:
                    read = _HEADERS[np.lib.format.read_magic(file)]
                    shape, _, kind = getattr(np.lib.format, read)(file)
                    if kind.hasobject:
                        raise SubjectError(f"{path}: {member.filename} holds pickled objects")
                    told = prod(shape) * kind.itemsize
                    if told != member.file_size - file.tell():
                        raise ValueError(f"{member.filename} has not the size of its header")
                shapes[member.filename.removesuffix(".npy")] = shape
    except SubjectError:
        raise
    except Exception as error:
        # zlib, zipfile and numpy's header parser raise whatever damaged bytes lead them to.
        raise SubjectError(f"{path}: truncated or no npz file ({error!r})") from error
    return shapes


_HEADERS = {(1, 0): "read_array_header_1_0", (2, 0): "read_array_header_2_0"}
