"""Files that ``torch.save`` wrote, looked at before they are opened: tensors, and nothing else.

Nothing is run for it: the archive's index and the pickle's instructions are read as data.
"""

import pickletools
import zipfile
from collections import Counter
from pathlib import Path

from saebench.errors import SubjectError
from saebench.subjects.loaders.files import check_regular

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
