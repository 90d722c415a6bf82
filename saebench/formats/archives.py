"""Checks of ``torch.save`` and ``.npz`` files before they are opened: tensors and nothing else.

The archive's index and the pickle's instructions are read as data; nothing in them is run.
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

LARGEST_PICKLE_BYTES = 1 << 22  # a state dict's names, shapes and offsets take some kilobytes
STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
NAMES = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    *(f"torch {kind}Storage" for kind in STORAGES),
}
# The instructions of a pickled dictionary of tensors; INST, OBJ, NEWOBJ, EXT and STACK_GLOBAL,
# which create or look up other objects, are not among them.
INSTRUCTIONS = {
    "PROTO", "MARK", "STOP", "GLOBAL", "REDUCE", "BUILD", "BINPERSID", "NONE", "NEWTRUE",
    "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "BINFLOAT", "EMPTY_DICT",
    "EMPTY_TUPLE", "EMPTY_LIST", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "SETITEM", "SETITEMS",
    "APPEND", "APPENDS", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET",
}  # fmt: skip

# struct's format of each storage type; bfloat16 has none.
_CODES = {"Float": "f", "Double": "d", "Half": "e", "Long": "q", "Int": "i", "Short": "h",
          "Char": "b", "Byte": "B"}  # fmt: skip


@dataclass(frozen=True)
class PickledTensor:
    """A tensor as a pickle describes it: storage type and key, offset, shape."""

    kind: str
    key: str
    offset: int
    shape: Shape


def pickled_tensors(path: Path) -> dict[str, PickledTensor]:
    """Return a state dict's tensors as its pickle describes them; nothing is loaded or run.

    Raises:
        SubjectError: for a pickle that is more than a dictionary of tensors, or damaged.
    """
    check_tensors_alone(path)
    with zipfile.ZipFile(path) as archive:
        instructions = _pickle(path, archive)
    try:
        state = _Headers(io.BytesIO(instructions)).load()
    except Exception as error:
        # Instructions in an order that torch.save never writes may raise anything.
        raise _refused(path, f"its pickle is damaged ({error!r})") from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(tensor, PickledTensor)
        for name, tensor in state.items()
    ):
        kind = type(state).__name__
        raise SubjectError(f"{path}: expected a state dict, found {kind}: a dictionary of tensors")
    return dict(state)


def pickled_number(path: Path, tensor: PickledTensor) -> float | int | None:
    """Return a one-element tensor's number; None for other tensors and storage types."""
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
    """A dictionary that accepts attributes, which a state dict's pickle sets."""


class _Substitute:
    """A harmless replacement of a function that a pickle names, created anew for each file.

    A pickle's instructions may set attributes on it; being new, it carries none to other files.
    """

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)


class _Headers(pickle.Unpickler):
    """Unpickler of files that :func:`check_tensors_alone` accepted; it looks up no name."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the substitute of a function, or a storage type's name."""
        function = _SUBSTITUTES.get(f"{module} {name}")
        return name.removesuffix("Storage") if function is None else _Substitute(function)

    def persistent_load(self, pid: Any) -> Any:
        """Return the storage's type and key."""
        return pid[1], pid[2]


def _tensor(storage: Any, offset: Any, size: Any, *_: Any) -> PickledTensor:
    kind, key = storage
    shape = tuple(size)
    if not all(isinstance(n, int) and n >= 0 for n in (offset, *shape)):
        raise ValueError(f"a tensor of size {shape}")
    return PickledTensor(kind, str(key), offset, shape)


_SUBSTITUTES: Mapping[str, Callable[..., Any]] = {
    "collections OrderedDict": lambda *pairs: _Dictionary(*pairs),
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": lambda data, *_: data,
}


def check_tensors_alone(path: Path) -> None:
    """Refuse a pickle that is more than a dictionary of tensors, without unpickling it.

    ``torch.load(weights_only=True)`` refuses what could run code too, but its unpickler was
    broken twice (CVE-2025-32434, CVE-2026-24747). This accepts only what a state dict needs.

    Raises:
        SubjectError: naming the refused content, and how to convert the file.
    """
    check_regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            instructions = _pickle(path, archive)
    except (OSError, ValueError, NotImplementedError, RuntimeError, zipfile.BadZipFile) as error:
        raise _refused(path, f"truncated or not written by torch.save ({error})") from error
    try:
        for instruction, argument, _ in pickletools.genops(instructions):
            if instruction.name not in INSTRUCTIONS:
                raise _refused(path, f"its pickle holds {instruction.name}")
            if instruction.name == "GLOBAL" and argument not in NAMES:
                raise _refused(path, f"its pickle asks for {str(argument)!r}")
    except (ValueError, IndexError, UnicodeError) as error:
        raise _refused(path, f"its pickle is damaged ({error})") from error


def _pickle(path: Path, archive: zipfile.ZipFile) -> bytes:
    """Return the archive's pickle; its members must be laid out as torch.save does."""
    members = archive.infolist()
    repeated = [name for name, count in Counter(m.filename for m in members).items() if count > 1]
    if repeated:
        raise _refused(path, f"its archive holds {repeated[0]!r} twice")
    compressed = [m.filename for m in members if m.compress_type != zipfile.ZIP_STORED]
    if compressed or sum(m.file_size for m in members) > path.stat().st_size:
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
    """Return the shapes in an ``.npz`` file, read from its arrays' headers.

    Raises:
        SubjectError: for another kind of file, for arrays of Python objects, which are pickles,
            and for arrays whose size is not that of their header.
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
                    expected = prod(shape) * kind.itemsize
                    if expected != member.file_size - file.tell():
                        raise ValueError(f"{member.filename} has not the size of its header")
                shapes[member.filename.removesuffix(".npy")] = shape
    except SubjectError:
        raise
    except Exception as error:
        # zlib, zipfile and numpy's header parser may raise anything on damaged bytes.
        raise SubjectError(f"{path}: truncated or no npz file ({error!r})") from error
    return shapes


_HEADERS = {(1, 0): "read_array_header_1_0", (2, 0): "read_array_header_2_0"}
