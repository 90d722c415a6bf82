"""Archives of numpy arrays, looked at before they are read."""

import zipfile
from math import prod
from pathlib import Path

from saebench.errors import SubjectError
from saebench.subjects.loaders.files import Shape, check_regular


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
