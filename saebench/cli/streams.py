"""Standard output and error of any encoding: what they cannot show is escaped, never refused."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ESCAPED = "backslashreplace"


@contextmanager
def every_text(stream: Any) -> Iterator[None]:
    r"""Have a stream escape what its encoding lacks, within: ``≤`` becomes ``\u2264`` in ASCII.

    Args:
        stream: sys.stdout or sys.stderr; what stands in for them in a notebook or a test, and
            knows of no encoding, is left alone.
    """
    before = getattr(stream, "errors", None)
    if not hasattr(stream, "reconfigure") or before == ESCAPED:
        yield
        return
    stream.reconfigure(errors=ESCAPED)
    try:
        yield
    finally:
        if not stream.closed:
            stream.reconfigure(errors=before)
